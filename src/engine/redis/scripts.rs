//! The Lua scripts that Redis runs for a node. Keys, arguments and effects are those of Centrifugo's, so that both kinds of
//! nodes write the same; the text is our own.

use std::sync::LazyLock;

use redis::Script;

/// A script, and the hash by which a server calls it.
pub struct Lua {
    pub source: &'static str,
    pub hash: String,
}

impl Lua {
    fn new(source: &'static str) -> Lua {
        Lua { source, hash: Script::new(source).get_hash().to_owned() }
    }
}

/// Appends to a channel's stream and publishes, in one step: the order of Pub/Sub is the order of offsets.
///
/// Keys: stream, meta, result. Arguments: message, size, ttl, Pub/Sub channel, meta ttl, epoch of a new log, result ttl or
/// nothing, version or 0, version epoch. Returns offset, epoch, whether it repeats a key, whether its version is old.
/// A publication that is not taken leaves the offset where it was.
pub static PUBLISH: LazyLock<Lua> = LazyLock::new(|| {
    Lua::new(
        r"
local stream, meta, result = KEYS[1], KEYS[2], KEYS[3]
local message, size, ttl, channel, meta_ttl = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local result_ttl, version, version_epoch = ARGV[7], ARGV[8], ARGV[9]
if result_ttl ~= '' then
  local before = redis.call('HMGET', result, 'e', 's')
  if before[1] then return {before[2] or '0', before[1], '1', '0'} end
end
local epoch = redis.call('HGET', meta, 'e')
if not epoch then
  epoch = ARGV[6]
  redis.call('HSET', meta, 'e', epoch)
end
if version ~= '0' then
  local known = redis.call('HMGET', meta, 'v', 've')
  local same = version_epoch == '' or version_epoch == known[2]
  if known[1] and same and tonumber(known[1]) >= tonumber(version) then
    return {redis.call('HGET', meta, 's') or '0', epoch, '0', '1'}
  end
end
local top = redis.call('HINCRBY', meta, 's', 1)
if top == 1 then redis.call('DEL', stream) end
local added = redis.pcall('XADD', stream, 'MAXLEN', size, top, 'd', message)
if type(added) == 'table' and added.err then
  redis.call('HINCRBY', meta, 's', -1)
  return added
end
redis.call('EXPIRE', stream, ttl)
if version ~= '0' then redis.call('HSET', meta, 'v', version, 've', version_epoch) end
if meta_ttl ~= '0' then redis.call('EXPIRE', meta, meta_ttl) end
redis.call('PUBLISH', channel, '__p1:' .. top .. ':' .. epoch .. '__' .. message)
if result_ttl ~= '' then
  redis.call('HSET', result, 'e', epoch, 's', top)
  redis.call('EXPIRE', result, result_ttl)
end
return {top, epoch, '0', '0'}
",
    )
});

/// Publishes without history, once for a key. Key: result. Arguments: message, Pub/Sub channel, result ttl.
pub static PUBLISH_ONCE: LazyLock<Lua> = LazyLock::new(|| {
    Lua::new(
        r"
if redis.call('HGET', KEYS[1], 'e') then return '1' end
redis.call('PUBLISH', ARGV[2], ARGV[1])
redis.call('HSET', KEYS[1], 'e', '')
redis.call('EXPIRE', KEYS[1], ARGV[3])
return '0'
",
    )
});

/// Where a log stands, and entries of it. Keys: stream, meta. Arguments: whether entries are wanted, from which offset,
/// how many at most (0: all), whether backwards, meta ttl, epoch of a new log. Returns top offset, epoch, entries.
pub static HISTORY: LazyLock<Lua> = LazyLock::new(|| {
    Lua::new(
        r"
local stream, meta = KEYS[1], KEYS[2]
local wanted, from, limit, backwards, meta_ttl = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local stands = redis.call('HMGET', meta, 'e', 's')
local epoch, top = stands[1], stands[2] or '0'
if not epoch then
  epoch, top = ARGV[6], '0'
  redis.call('HSET', meta, 'e', epoch, 's', '0')
  redis.call('DEL', stream)
end
if meta_ttl ~= '0' then redis.call('EXPIRE', meta, meta_ttl) end
if wanted == '0' then return {top, epoch} end
local read
if backwards == '0' then
  read = {'XRANGE', stream, from, '+'}
else
  read = {'XREVRANGE', stream, from == '0' and top or from, '-'}
end
if limit ~= '0' then
  read[5], read[6] = 'COUNT', limit
end
return {top, epoch, redis.call(unpack(read))}
",
    )
});

/// Adds a member to a channel's presence, or says that it is still there. Keys: members by expiry, members' infos.
/// Arguments: ttl, expires at, client, info.
pub static PRESENCE_ADD: LazyLock<Lua> = LazyLock::new(|| {
    Lua::new(
        r"
redis.call('ZADD', KEYS[1], ARGV[2], ARGV[3])
redis.call('HSET', KEYS[2], ARGV[3], ARGV[4])
redis.call('EXPIRE', KEYS[1], ARGV[1])
redis.call('EXPIRE', KEYS[2], ARGV[1])
",
    )
});

/// Takes a member out. Keys as of [`PRESENCE_ADD`]. Argument: client.
pub static PRESENCE_REMOVE: LazyLock<Lua> = LazyLock::new(|| {
    Lua::new(
        r"
redis.call('HDEL', KEYS[2], ARGV[1])
redis.call('ZREM', KEYS[1], ARGV[1])
",
    )
});

/// The members that have not expired. Keys as of [`PRESENCE_ADD`]. Argument: now, in seconds.
pub static PRESENCE: LazyLock<Lua> = LazyLock::new(|| {
    Lua::new(
        r"
local over = redis.call('ZRANGEBYSCORE', KEYS[1], '0', ARGV[1])
for _, client in ipairs(over) do redis.call('HDEL', KEYS[2], client) end
if #over > 0 then redis.call('ZREMRANGEBYSCORE', KEYS[1], '0', ARGV[1]) end
return redis.call('HGETALL', KEYS[2])
",
    )
});

/// What a server must know.
pub fn all() -> [&'static Lua; 6] {
    [&PUBLISH, &PUBLISH_ONCE, &HISTORY, &PRESENCE_ADD, &PRESENCE_REMOVE, &PRESENCE]
}
