"""Where shards are trained. A member has ``verify()`` and ``train(jobs, runtime)``.

``train`` yields the number of each shard as its two files arrive in the folder of its job. None can
change a byte: every shard is trained whole, on one thread, from its own random streams.
"""

EXECUTORS = {
    "local": "weightspace.zoo.executors.local",
    "ray": "weightspace.zoo.executors.ray",
}
