#!/bin/sh
# kodou with curl alone. Needs KODOU_URL (default http://127.0.0.1:8000) and KODOU_TOKEN (`kodou keys create NAME`).
set -eu
url=${KODOU_URL:-http://127.0.0.1:8000}

post() { # path, body
    curl --fail-with-body --silent --show-error --max-time 600 "$url$1" \
        -H "Authorization: Bearer $KODOU_TOKEN" -H "Content-Type: application/json" -d "$2"
}

# The first time, numpy is fetched and installed; from then on the environment is there.
reply=$(post /environment/python/setup '{"version": "3", "dependencies": ["numpy"]}')
session=$(printf '%s' "$reply" | sed -n 's/.*"sessionid": *"\([^"]*\)".*/\1/p')

# numpy.array([2, 4, 6]).sum()
reply=$(post /environment/python/call '{
    "sessionid": "'"$session"'", "timeout": "20000",
    "namepath": [{"moduleName": "numpy"}, {"name": "array", "args": [[2, 4, 6]]}, {"name": "sum"}],
    "args": []}')
printf '%s: %s\n' "numpy.array([2, 4, 6]).sum()" "$reply"
printf '%s' "$reply" | grep -q '"value": *12[,}]'

# numpy.linalg.norm([3, 4], ord=1)
reply=$(post /environment/python/call '{
    "sessionid": "'"$session"'", "namepath": "numpy.linalg.norm", "args": [[3, 4]], "kwargs": {"ord": 1}}')
printf '%s: %s\n' "numpy.linalg.norm([3, 4], ord=1)" "$reply"
printf '%s' "$reply" | grep -q '"value": *7.0[,}]'

# What the function raises comes back with status 200 and "error": true.
reply=$(post /environment/python/call '{"sessionid": "'"$session"'", "namepath": "math.sqrt", "args": [-1]}')
printf '%s: %s\n' "math.sqrt(-1)" "$reply"
printf '%s' "$reply" | grep -q '"type": *"ValueError"'

curl --fail-with-body --silent --show-error -X DELETE "$url/session" -H "Authorization: Bearer $KODOU_TOKEN" \
    -H "X-Session-ID: $session" >/dev/null
echo "session closed"
