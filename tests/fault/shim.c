/* Stands between Python and the C library: counts the calls that concern files below a folder, and at the chosen one
   returns an error instead of calling, or kills the process before or after it. Loaded with LD_PRELOAD. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/statvfs.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum { NOTHING, KILL_BEFORE, KILL_AFTER };

static char folder[4096], wanted[32];
static int nth, failure, forever, killing, log_file = -1;
static atomic_int count;

/* call: the name of a call, or "any"; error: what the nth one returns, 0 for none; always: all later ones too */
void shim_arm(const char *below, const char *call, int number, int error, int always, int kill)
{
    snprintf(folder, sizeof folder, "%s", below);
    snprintf(wanted, sizeof wanted, "%s", call);
    nth = number, failure = error, forever = always, killing = kill;
    count = 0;
}

int shim_count(void) { return count; }

void shim_log(int descriptor) { log_file = descriptor; }

static const char *path_of(int descriptor, char *buffer)
{
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    ssize_t length = readlink(link, buffer, 4095);
    buffer[length < 0 ? 0 : length] = 0;
    return buffer;
}

/* Returns 1 where the call must fail (errno is set), -1 where the process must die after it. */
static int meets(const char *call, const char *path)
{
    if (!folder[0] || strncmp(path, folder, strlen(folder)))
        return 0;
    if (log_file >= 0)
        dprintf(log_file, "%s %s\n", call, path);
    if (strcmp(wanted, call) && strcmp(wanted, "any"))
        return 0;
    int number = ++count;
    if (number != nth && !(forever && number > nth))
        return 0;
    if (killing == KILL_BEFORE)
        kill(getpid(), SIGKILL);
    if (killing == KILL_AFTER)
        return -1;
    errno = failure;
    return failure != 0;
}

#define REAL(name) __typeof__(&name) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)
#define RUN(expression)                     \
    __typeof__(expression) result = (expression); \
    if (met < 0)                            \
        kill(getpid(), SIGKILL);            \
    return result
#define ON_PATH(call, path, expression)     \
    int met = meets(call, path);            \
    if (met > 0)                            \
        return -1;                          \
    RUN(expression)
#define ON_FILE(call, descriptor, expression) \
    char buffer[4096];                      \
    ON_PATH(call, path_of(descriptor, buffer), expression)

int open64(const char *path, int flags, ...)
{
    REAL(open64);
    va_list rest;
    va_start(rest, flags);
    mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0;
    va_end(rest);
    ON_PATH(flags & O_CREAT ? "create" : "open", path, real(path, flags, mode));
}

int posix_fallocate64(int file, off64_t offset, off64_t length)
{
    REAL(posix_fallocate64);
    char buffer[4096];
    int met = meets("posix_fallocate", path_of(file, buffer));
    if (met > 0)
        return failure;
    RUN(real(file, offset, length));
}

ssize_t pwritev64v2(int file, const struct iovec *parts, int n, off64_t offset, int flags)
{
    REAL(pwritev64v2);
    ON_FILE("pwrite", file, real(file, parts, n, offset, flags));
}

ssize_t pwritev64(int file, const struct iovec *parts, int n, off64_t offset)
{
    REAL(pwritev64);
    ON_FILE("pwrite", file, real(file, parts, n, offset));
}

ssize_t pwrite64(int file, const void *content, size_t size, off64_t offset)
{
    REAL(pwrite64);
    ON_FILE("pwrite", file, real(file, content, size, offset));
}

ssize_t write(int file, const void *content, size_t size)
{
    REAL(write);
    ON_FILE("write", file, real(file, content, size));
}

int fsync(int file)
{
    REAL(fsync);
    ON_FILE("fsync", file, real(file));
}

int ftruncate64(int file, off64_t length)
{
    REAL(ftruncate64);
    ON_FILE("ftruncate", file, real(file, length));
}

int fchmod(int file, mode_t mode)
{
    REAL(fchmod);
    ON_FILE("fchmod", file, real(file, mode));
}

int flock(int file, int operation)
{
    REAL(flock);
    ON_FILE("flock", file, real(file, operation));
}

int rename(const char *from, const char *to)
{
    REAL(rename);
    ON_PATH("rename", to, real(from, to));
}

int unlink(const char *path)
{
    REAL(unlink);
    ON_PATH("unlink", path, real(path));
}

int mkdir(const char *path, mode_t mode)
{
    REAL(mkdir);
    ON_PATH("mkdir", path, real(path, mode));
}

int statvfs64(const char *path, struct statvfs64 *status)
{
    REAL(statvfs64);
    ON_PATH("statvfs", path, real(path, status));
}
