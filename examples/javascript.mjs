// kodou with Node 18's own fetch. Needs KODOU_URL (default http://127.0.0.1:8000) and KODOU_TOKEN (`kodou keys create NAME`).
import assert from "node:assert/strict";

const url = process.env.KODOU_URL ?? "http://127.0.0.1:8000";
const headers = { Authorization: `Bearer ${process.env.KODOU_TOKEN}`, "Content-Type": "application/json" };

async function request(method, path, body) {
  const response = await fetch(url + path, { method, headers, body: JSON.stringify(body) });
  const text = await response.text();
  if (!response.ok) throw new Error(`${method} ${path}: ${response.status} ${text}`);
  return text && JSON.parse(text);
}

// The first time, numpy is fetched and installed; from then on the environment is there.
const { sessionid, environment } = await request("POST", "/environment/python/setup", {
  version: "3",
  dependencies: ["numpy"],
});
console.log("environment:", environment.id, environment.packages);

const call = (namepath, members = {}) =>
  request("POST", "/environment/python/call", { sessionid, namepath, ...members });

const sum = await call([{ moduleName: "numpy" }, { name: "array", args: [[2, 4, 6]] }, { name: "sum" }]);
console.log("numpy.array([2, 4, 6]).sum():", sum.value);
assert.equal(sum.value, 12);

const norm = await call("numpy.linalg.norm", { args: [[3, 4]], kwargs: { ord: 1 }, timeout: 20000 });
console.log("numpy.linalg.norm([3, 4], ord=1):", norm.value);
assert.equal(norm.value, 7);

// What the function raises comes back with status 200 and "error": true.
const failed = await call("math.sqrt", { args: [-1] });
console.log("math.sqrt(-1):", failed.exception.type, failed.exception.message);
assert.equal(failed.error, true);
assert.equal(failed.exception.type, "ValueError");

await request("DELETE", "/session", { sessionid });
console.log("session closed");
