"""The cases: each takes `runtime` and holds for every one."""
