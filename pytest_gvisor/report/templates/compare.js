"use strict";
// Lines times lines: what is compared in less than a tenth of a second.
const MOST_COMPARED = 4e6;

// The lines of two texts, each with "-", "+", or " " for both, by their longest common
// subsequence; null if they are too long for that.
const lineDiff = (one, two) => {
  const before = one ? one.split("\n") : [];
  const after = two ? two.split("\n") : [];
  let start = 0;
  while (start < Math.min(before.length, after.length) && before[start] === after[start]) start += 1;
  let end = before.length;
  let afterEnd = after.length;
  while (end > start && afterEnd > start && before[end - 1] === after[afterEnd - 1]) {
    end -= 1;
    afterEnd -= 1;
  }
  const left = before.slice(start, end);
  const right = after.slice(start, afterEnd);
  if (left.length * right.length > MOST_COMPARED) return null;
  const width = right.length + 1;
  const longest = new Uint16Array((left.length + 1) * width);
  for (let i = left.length - 1; i >= 0; i -= 1) {
    for (let j = right.length - 1; j >= 0; j -= 1) {
      longest[i * width + j] = left[i] === right[j]
        ? longest[(i + 1) * width + j + 1] + 1
        : Math.max(longest[(i + 1) * width + j], longest[i * width + j + 1]);
    }
  }
  const both = (line) => [" ", line];
  const found = before.slice(0, start).map(both);
  let i = 0;
  let j = 0;
  while (i < left.length || j < right.length) {
    if (i < left.length && j < right.length && left[i] === right[j]) {
      found.push(both(left[i]));
      i += 1;
      j += 1;
    } else if (i < left.length &&
        (j === right.length || longest[(i + 1) * width + j] >= longest[i * width + j + 1])) {
      found.push(["-", left[i]]);
      i += 1;
    } else {
      found.push(["+", right[j]]);
      j += 1;
    }
  }
  return found.concat(before.slice(end).map(both));
};
