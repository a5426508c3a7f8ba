"""Rewards that are not shipped models: functions of the user's, programs, and servers.

`function` runs in this process, `program` in one of its own, which may have an `environment` of its own, and
`client` on another machine, behind `server`. Programs and servers exchange the JSON of `wire`.
"""
