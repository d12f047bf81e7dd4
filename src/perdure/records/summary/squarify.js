// Squarified treemaps: Bruls, Huizing and van Wijk, "Squarified Treemaps", 2000.

// Lay out parts in a rectangle, each with an area in proportion to its size, as near to squares as that allows. Takes parts
// {size}, the largest first, and a rectangle {x, y, width, height}; returns [part, rectangle] of each.
function squarify(parts, within) {
  const laid = [];
  let left = parts.filter((part) => part.size > 0);
  let free = { ...within };
  let total = left.reduce((sum, part) => sum + part.size, 0);
  while (left.length) {
    const scale = (free.width * free.height) / total;
    const side = Math.min(free.width, free.height);
    const row = firstRow(left, scale, side);
    const rowSize = row.reduce((sum, part) => sum + part.size, 0);
    const isLast = row.length === left.length;
    const depth = isLast ? Math.max(free.width, free.height) : (rowSize * scale) / side;
    let start = 0;
    for (const part of row) {
      const length = side * (part.size / rowSize);
      laid.push([
        part,
        free.width >= free.height
          ? { x: free.x, y: free.y + start, width: depth, height: length }
          : { x: free.x + start, y: free.y, width: length, height: depth },
      ]);
      start += length;
    }
    free =
      free.width >= free.height
        ? { x: free.x + depth, y: free.y, width: free.width - depth, height: free.height }
        : { x: free.x, y: free.y + depth, width: free.width, height: free.height - depth };
    total -= rowSize;
    left = left.slice(row.length);
  }
  return laid;
}

// Return as many of the first parts as make the row with the least elongated rectangles along a side.
function firstRow(parts, scale, side) {
  let sum = 0;
  let best = Infinity;
  let count = 0;
  for (const part of parts) {
    sum += part.size;
    const depth = (sum * scale) / side;
    const longest = (parts[0].size * scale) / depth / depth;
    const shortest = (part.size * scale) / depth / depth;
    const worst = Math.max(longest, 1 / longest, shortest, 1 / shortest);
    if (worst > best) break;
    best = worst;
    count += 1;
  }
  return parts.slice(0, count);
}
