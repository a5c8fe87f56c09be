// How the programs of this folder talk with the test that runs them.
//
// Their one argument is JSON. Commands come in as lines of JSON, [method, ...arguments], and are
// carried out one after the other; everything that happens goes out as lines of JSON,
// [what, ...details]. They end with their standard input.
import { createInterface } from "node:readline";

export const configuration = JSON.parse(process.argv[2]);

export const say = (...line) => process.stdout.write(JSON.stringify(line) + "\n");

export async function obey(commands) {
  for await (const line of createInterface({ input: process.stdin })) {
    const [method, ...rest] = JSON.parse(line);
    await commands[method](...rest);
  }
  process.exit(0);
}
