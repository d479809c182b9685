// Prints the Khronos gltf-validator's verdict on each GLB; exits with 1 where a file has an error or a warning.
// Usage: npm install gltf-validator, then node benchmarks/validate_glb.mjs FILE.glb ...
// The package is looked for in $GLTF_VALIDATOR (a folder with node_modules), else in the current folder.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { resolve } from "node:path";

const home = resolve(process.env.GLTF_VALIDATOR ?? ".");
const validator = createRequire(`${home}/package.json`)("gltf-validator");
let failed = false;
for (const file of process.argv.slice(2)) {
  const { issues } = await validator.validateBytes(new Uint8Array(readFileSync(file)));
  const { numErrors, numWarnings, numInfos, numHints, messages } = issues;
  console.log(JSON.stringify({ file, errors: numErrors, warnings: numWarnings, infos: numInfos, hints: numHints }));
  for (const { code, message, pointer } of messages) console.log(`  ${code} ${pointer ?? ""}: ${message}`);
  failed ||= numErrors + numWarnings > 0;
}
process.exit(failed ? 1 : 0);
