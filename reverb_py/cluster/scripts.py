"""
What Redis does in one step, as Lua, so that nothing comes between.

A channel is held by nodes, for users; a plain channel is held for the user whose id is empty. Its
keys share a hash tag, and so one slot of a Redis Cluster:

- `counts`: user id → number of nodes that hold the channel for this user;
- `infos`: user id → what the others learn of the user;
- `version`: of the last change of its members, larger with each one, also after all were gone;
- `subscribers`: node → connections that are subscribed there;
- `departures`: user id, or nothing for everybody → the node that holds back that they have gone,
  until it is certain; nobody who is in `counts` is in it;
- `at:NODE`: the users for whom the node holds it.

Every script looks at all of its keys before it changes one, so that it fails as a whole where
something else lies there, and changes nothing when it is run again. Members that come and go are
told to the channel's topic by the script itself: Redis puts them in order, and each is told once.

Whatever is noted under a node's name comes with a deadline, in ms since 1970 by the clock of Redis:
what the network has kept for longer than the node can have lived is refused. So nothing arrives
any more when the name is buried.
"""

__all__ = [
    "COUNT",
    "HOLD",
    "KEEP_LAST",
    "LEASE",
    "LEAVE",
    "ORDER",
    "REAP",
    "REGISTER",
    "RELEASE",
    "SAY_LAST",
    "SCRIPTS",
    "SETTLE",
    "SINCE",
    "SNAPSHOT",
    "keys_of",
]

_PRELUDE = """
local counts, infos, version, subscribers, departures, at = unpack(KEYS)
local topic, publish = ARGV[1], ARGV[2]
local function tell(sign, user, info)
    local time = redis.call('TIME')
    local before = tonumber(redis.call('GET', version) or '0')
    local now = math.max(before + 1, time[1] * 1000000 + time[2])
    redis.call('SET', version, string.format('%.0f', now))
    redis.call(publish, topic,
        string.format('%s%.0f %.0f %d\\n', sign, before, now, #user) .. user .. info)
end
local function is_late(deadline)
    local time = redis.call('TIME')
    return time[1] * 1000 + math.floor(time[2] / 1000) > tonumber(deadline)
end
local function look()
    redis.call('HLEN', counts)
    redis.call('HLEN', infos)
    redis.call('HLEN', subscribers)
    redis.call('HLEN', departures)
    return tonumber(redis.call('GET', version) or '0') + redis.call('SCARD', at)
end
local function drop(user)
    if redis.call('HINCRBY', counts, user, -1) > 0 then return false end
    redis.call('HDEL', counts, user)
    redis.call('HDEL', infos, user)
    if user ~= '' then tell('-', user, '') end
    if redis.call('EXISTS', counts) == 0 then redis.call('DEL', version) end
    return true
end
local function tell_counts()
    redis.call(publish, topic, '=' .. table.concat(redis.call('HGETALL', subscribers), ' '))
end
"""

HOLD = (
    _PRELUDE
    + """
local user, info, most = ARGV[3], ARGV[4], tonumber(ARGV[5])
local is_first, is_occupied = 0, 0
local function is_news(who)
    return 1 - redis.call('HDEL', departures, who)
end
look()
if is_late(ARGV[6]) then return {'late'} end
if redis.call('SISMEMBER', at, user) == 0 then
    local is_held = redis.call('HEXISTS', counts, user) == 1
    if most > 0 and not is_held and redis.call('HLEN', counts) >= most then return {'full'} end
    if redis.call('EXISTS', counts) == 0 then is_occupied = is_news('') end
    redis.call('HINCRBY', counts, user, 1)
    redis.call('SADD', at, user)
    if not is_held then
        if user ~= '' then
            is_first = is_news(user)
            redis.call('HSET', infos, user, info)
            tell('+', user, info)
        end
    end
end
return {'held', is_first, is_occupied, redis.call('GET', version) or '0'}
"""
)
"""
KEYS as above, ARGV: topic, publishing command, user, info, most members (0: any number), deadline.

Returns whether it is news that the user is there, and that anybody is: neither is when their
departure was held back, which is undone.
"""

RELEASE = (
    _PRELUDE
    + """
look()
if redis.call('SISMEMBER', at, ARGV[3]) == 0 then return {0, 0} end
local is_last = drop(ARGV[3])
redis.call('SREM', at, ARGV[3])
if not is_last then return {0, 0} end
local is_vacated = 1 - redis.call('EXISTS', counts)
if ARGV[5] == '1' and ARGV[3] ~= '' then redis.call('HSET', departures, ARGV[3], ARGV[4]) end
if ARGV[6] == '1' and is_vacated == 1 then redis.call('HSET', departures, '', ARGV[4]) end
return {1, is_vacated}
"""
)
"""
ARGV: topic, publishing command, user, node, 1 to hold back that the user has gone, 1 for everybody.

Returns whether it was the last, and of all users.
"""

SETTLE = (
    _PRELUDE
    + """
look()
local holder = redis.call('HGET', departures, ARGV[3])
if ARGV[5] == '1' then
    if holder or redis.call('HEXISTS', counts, ARGV[3]) == 1 then return 0 end
    return ARGV[3] == '' and 1 - redis.call('EXISTS', counts) or 1
end
if holder ~= ARGV[4] then return 0 end
redis.call('HDEL', departures, ARGV[3])
return 1
"""
)
"""
ARGV: topic, publishing command, user, node, 1 if the outcome of the first time is unknown.

Returns whether it is certain that the user, or everybody, has gone, and hence to be told.
"""

REAP = (
    _PRELUDE
    + """
look()
local gone, was_occupied = {}, redis.call('EXISTS', counts)
for _, user in ipairs(redis.call('SMEMBERS', at)) do
    if drop(user) then gone[#gone + 1] = user end
    redis.call('SREM', at, user)
end
local is_vacated = was_occupied - redis.call('EXISTS', counts)
local held = redis.call('HGETALL', departures)
for place = 1, #held, 2 do
    if held[place + 1] == ARGV[3] then
        redis.call('HDEL', departures, held[place])
        if held[place] == '' then is_vacated = 1 else gone[#gone + 1] = held[place] end
    end
end
for _, user in ipairs(gone) do
    if ARGV[5] == '1' and user ~= '' then redis.call('HSET', departures, user, ARGV[4]) end
end
if ARGV[6] == '1' and is_vacated == 1 then redis.call('HSET', departures, '', ARGV[4]) end
if redis.call('HDEL', subscribers, ARGV[3]) == 1 then tell_counts() end
return {is_vacated, gone}
"""
)
"""
ARGV: topic, publishing command, node, its heir, and as above what the heir is to hold back.

Returns whether it is vacated, and who has gone, those included whose departure the node held back.
"""

COUNT = (
    _PRELUDE
    + """
if ARGV[4] == '0' then
    redis.call('HDEL', subscribers, ARGV[3])
elseif not is_late(ARGV[5]) then
    redis.call('HSET', subscribers, ARGV[3], ARGV[4])
end
tell_counts()
"""
)
"""ARGV: topic, publishing command, node, its subscribers, deadline."""

SNAPSHOT = """
return {redis.call('GET', KEYS[3]) or '0', redis.call('HGETALL', KEYS[2])}
"""

_TIME = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local function ms(number)
    return string.format('%.0f', number)
end
"""

LEASE = (
    _TIME
    + """
local nodes, gone = unpack(KEYS)
local name, lease = ARGV[1], tonumber(ARGV[2])
if ARGV[3] == '0' then
    local expires = redis.call('ZSCORE', nodes, name)
    if not expires or tonumber(expires) < now then return {false, {}, {}} end
end
redis.call('ZCARD', gone)
redis.call('ZADD', nodes, ms(now + lease), name)
local function claim(one)
    redis.call('ZADD', gone, ms(now + tonumber(ARGV[4])), one)
end
if ARGV[5] ~= '' then
    redis.call('ZREM', nodes, ARGV[5])
    claim(ARGV[5])
end
local function before_now(key)
    return redis.call('ZRANGEBYSCORE', key, '-inf', '(' .. ms(now), 'LIMIT', 0, 16)
end
for _, dead in ipairs(before_now(nodes)) do
    redis.call('ZREM', nodes, dead)
    redis.call('ZADD', gone, 0, dead)
end
local left, due = redis.call('ZRANGEBYSCORE', gone, -1, -1, 'LIMIT', 0, 16), before_now(gone)
for _, one in ipairs(due) do claim(one) end
return {ms(now + lease), due, left}
"""
)
"""
KEYS: nodes, gone. ARGV: node, lease in ms, 1 to begin one, ms for which a claim counts, the node's
last name or nothing.

Returns when the lease ends, or nothing where it has ended, the names of which nobody lives that
this node is to reap, and those among them whose nodes have left in order. No other node is told of
them while the claim counts.
"""

REGISTER = (
    _TIME
    + """
if now > tonumber(ARGV[1]) then return 0 end
redis.call('SADD', KEYS[1], unpack(ARGV, 2))
return 1
"""
)
"""KEYS: what the node holds. ARGV: deadline, topics. Returns whether it was in time."""

LEAVE = (
    _TIME
    + """
local nodes, gone = unpack(KEYS)
if ARGV[2] == '1' then
    redis.call('ZCARD', gone)
    redis.call('ZREM', nodes, ARGV[1])
    redis.call('ZADD', gone, -1, ARGV[1])
end
local living = redis.call('ZRANGEBYSCORE', nodes, ms(now), '+inf', 'LIMIT', 0, 2)
local dead = redis.call('ZRANGEBYSCORE', nodes, '-inf', '(' .. ms(now), 'LIMIT', 0, 16)
for _, one in ipairs(redis.call('ZRANGE', gone, 0, 15)) do dead[#dead + 1] = one end
return {#living > 1 or #living == 1 and living[1] ~= ARGV[1], dead,
    redis.call('ZRANGEBYSCORE', gone, -1, -1, 'LIMIT', 0, 16)}
"""
)
"""
KEYS: nodes, gone. ARGV: node, 1 to give up its name.

Returns whether others live, the names of which nobody lives, and those of them that have left in
order.
"""

SAY_LAST = """
redis.call('SET', KEYS[1], ARGV[4], 'PX', ARGV[5])
return redis.call(ARGV[2], ARGV[1], ARGV[3])
"""
"""
KEYS: a cache channel's last event. ARGV: topic, publishing command, message, value, its ms to live.

What is heard last is what is remembered, whichever nodes publish at once.
"""

KEEP_LAST = """
if redis.call('PTTL', KEYS[1]) < tonumber(ARGV[2]) then
    redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
end
"""
"""KEYS: a cache channel's last event. ARGV: one, its ms to live. The younger of both stays."""

ORDER = """
redis.call(ARGV[2], ARGV[1], ARGV[3])
local time = redis.call('TIME')
redis.call('ZADD', KEYS[1], string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000)),
    ARGV[3])
redis.call('ZREMRANGEBYRANK', KEYS[1], 0, -1 - ARGV[5])
redis.call('PEXPIRE', KEYS[1], ARGV[4])
"""
"""
KEYS: orders. ARGV: topic, publishing command, message, ms for which it is kept, most that are kept.

Nodes that do not hear it now find it there.
"""

SINCE = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
return redis.call('ZRANGEBYSCORE', KEYS[1], string.format('%.0f', now - ARGV[1]), '+inf')
"""
"""KEYS: orders, or nodes. ARGV: ms. Returns the orders of so long; of nodes, with 0, who lives."""

SCRIPTS = (
    *(HOLD, RELEASE, SETTLE, REAP, COUNT, SNAPSHOT, LEASE, REGISTER, LEAVE),
    *(SAY_LAST, KEEP_LAST, ORDER, SINCE),
)


_SHARED = (b":counts", b":infos", b":version", b":subscribers", b":departures")


def keys_of(topic: bytes, node: bytes) -> list[bytes]:
    """Return the keys that every script about a topic takes, for what this node holds in it."""
    shared = [topic + end for end in _SHARED]
    return [*shared, topic + b":at:" + node]
