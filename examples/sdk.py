"""kodou with its Python client. Needs KODOU_URL (default http://127.0.0.1:8000) and KODOU_TOKEN (`kodou keys create NAME`)."""

import kodou

with kodou.Environment(["numpy"]) as env:
    print(env)

    # An expression is evaluated, in one request, once its value is needed.
    total = env.numpy.array([2, 4, 6]).sum()
    print("numpy.array([2, 4, 6]).sum():", total)
    assert total == 12

    # What is needed more than once can stay in the session.
    matrix = env.numpy.arange(6).reshape(2, 3).keep()
    print("kept:", repr(matrix))
    assert env.numpy.trace(env.numpy.matmul(matrix, matrix.T)) == 55

    # Functions over many items, and pipelines.
    print("square roots:", env.map(env.math.sqrt, [1, 4, 9]))
    norm = env.numpy.square | env.numpy.sum | env.math.sqrt
    assert norm([3, 4]) == 5.0

    # Output and items as they come.
    for told in env.iter([1, 2, 3]).stream():
        print("streamed:", told)

    try:
        env.math.sqrt(-1).value()
    except kodou.RemoteError as exc:
        print("math.sqrt(-1):", exc.type, exc.message)
        failed = exc.type
    assert failed == "ValueError"
print("session closed")
