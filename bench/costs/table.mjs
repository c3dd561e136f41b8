// The results as a table in markdown.

const MIB = 2 ** 20;

/** Characters of a column's line that say how it is aligned. */
const SHORTEST = 3;

const columns = [
  ["attack", ({ attacker, name }) => `${attacker}: ${name}`],
  ["s", ({ seconds }) => seconds.toFixed(0)],
  ["CPU s", ({ cpu }) => cpu.toFixed(1)],
  ["delayed s", ({ delayed }) => delayed.toFixed(1)],
  ["health ms", ({ health }) => health.longest.toFixed(0)],
  ["publish ms", ({ publish }) => publish.longest.toFixed(0)],
  ["peak MiB", ({ peak }) => inMiB(peak)],
  ["kept MiB", ({ memory }) => inMiB(memory)],
  ["disk MiB", ({ written }) => inMiB(written)],
  ["log MiB", ({ logged }) => inMiB(logged)],
  ["files", ({ files }) => `${files}`],
  ["sent MiB", ({ sent }) => inMiB(sent)],
  ["made", ({ made }) => made.toLocaleString("en")],
  ["answers, and remarks", ({ answers, remarks }) => [answersOf(answers), ...remarks].filter(Boolean).join("; ")],
];

function inMiB(bytes) {
  const amount = bytes / MIB;
  return amount.toFixed(Math.abs(amount) < 10 ? 1 : 0);
}

function answersOf(answers) {
  return Object.entries(answers)
    .map(([answer, times]) => `${answer}: ${times.toLocaleString("en")}`)
    .join(", ");
}

export function print(rows) {
  const cells = rows.map((row) =>
    row.fault === undefined
      ? columns.map(([, cellOf]) => cellOf(row))
      : columns.map(([, cellOf], index) => (index === 0 ? cellOf(row) : index === columns.length - 1 ? row.fault : "")),
  );
  const widths = columns.map(([title], index) =>
    Math.max(SHORTEST, title.length, ...cells.map((row) => row[index].length)),
  );
  const isText = (index) => index === 0 || index === columns.length - 1;
  const line = (row) =>
    `| ${row.map((cell, index) => (isText(index) ? cell.padEnd(widths[index]) : cell.padStart(widths[index]))).join(" | ")} |`;
  console.log(line(columns.map(([title]) => title)));
  console.log(line(widths.map((width, index) => (isText(index) ? "-".repeat(width) : `${"-".repeat(width - 1)}:`))));
  for (const row of cells) console.log(line(row));
}
