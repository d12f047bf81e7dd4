from sweeps.cases import Case
from parity.zoo import ZOO


def cases():
    return {name: Case(kind.build, kind.inputs()) for name, kind in ZOO.items()}
