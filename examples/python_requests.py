"""kodou with requests. Needs KODOU_URL (default http://127.0.0.1:8000) and KODOU_TOKEN (`kodou keys create NAME`)."""

import os

import requests

URL = os.environ.get("KODOU_URL", "http://127.0.0.1:8000")
http = requests.Session()
http.headers["Authorization"] = f"Bearer {os.environ['KODOU_TOKEN']}"


def post(path, body):
    response = http.post(URL + path, json=body, timeout=600)
    response.raise_for_status()
    return response.json()


# The first time, numpy is fetched and installed; from then on the environment is there.
ready = post("/environment/python/setup", {"version": "3", "dependencies": ["numpy"]})
session = ready["sessionid"]
print("environment:", ready["environment"]["id"], ready["environment"]["packages"])

reply = post(
    "/environment/python/call",
    {
        "sessionid": session,
        "timeout": 20000,
        "namepath": [{"moduleName": "numpy"}, {"name": "array", "args": [[2, 4, 6]]}, {"name": "sum"}],
    },
)
print("numpy.array([2, 4, 6]).sum():", reply["value"])
assert reply["value"] == 12

reply = post(
    "/environment/python/call",
    {"sessionid": session, "namepath": "numpy.linalg.norm", "args": [[3, 4]], "kwargs": {"ord": 1}},
)
print("numpy.linalg.norm([3, 4], ord=1):", reply["value"])
assert reply["value"] == 7.0

# What the function raises comes back with status 200 and "error": true.
reply = post("/environment/python/call", {"sessionid": session, "namepath": "math.sqrt", "args": [-1]})
print("math.sqrt(-1):", reply["exception"]["type"], reply["exception"]["message"])
assert reply["error"] is True
assert reply["exception"]["type"] == "ValueError"

http.delete(URL + "/session", json={"sessionid": session}, timeout=60).raise_for_status()
print("session closed")
