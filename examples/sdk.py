"""kodou with its Python client. Needs KODOU_URL (default http://127.0.0.1:8000) and KODOU_TOKEN (`kodou keys create NAME`)."""

from kodou import Client, RemoteError, step

with Client() as client, client.setup(["numpy"], progress=lambda event: print("…", event.phase)) as session:
    print("environment:", session.environment.id, dict(session.environment.packages))

    total = session.call(["numpy", step("array", [2, 4, 6]), "sum"])
    print("numpy.array([2, 4, 6]).sum():", total)
    assert total == 12

    norm = session.function("numpy.linalg.norm", timeout=20)
    print("numpy.linalg.norm([3, 4], ord=1):", norm([3, 4], ord=1))
    assert norm([3, 4], ord=1) == 7.0

    try:
        print("math.sqrt(-1):", session.call("math.sqrt", -1))
    except RemoteError as exc:
        print("math.sqrt(-1):", exc.type, exc.message)
        failed = exc.type
    assert failed == "ValueError"
print("session closed")
