use std::fmt;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::BackendStats;
use super::pool::{Dial, Failure, Pool};
use super::stream::{Server, Stream};
use crate::cluster::Error;
use crate::tls::TlsClient;

/// One memcached server, or several that share the keys. Clones share its connections.
///
/// It speaks memcached's text protocol. With several servers, a key is at the server at which due looks for it: that of the key's
/// CRC-32.
#[derive(Clone)]
pub struct Memcache(Arc<Vec<Pool<Dialer>>>);

/// Sets up a [`Memcache`].
#[derive(Clone)]
#[must_use = "it does nothing until `build` is called"]
pub struct MemcacheBuilder {
    servers: Vec<String>,
    user: Option<(String, String)>,
    connections: usize,
    timeout: Duration,
    tls: Option<TlsClient>,
}

/// A value as the server has it.
pub(in crate::cluster) struct Found {
    pub(in crate::cluster) value: Vec<u8>,
    /// Changes with each store.
    unique: u64,
    /// The time that is left, unless it stays.
    pub(in crate::cluster) left: Option<Duration>,
}

/// The condition for a store.
#[derive(Clone, Copy)]
enum Store<'f> {
    Always,
    /// If the key has no value.
    IfNew,
    /// If the value is still this one.
    IfSame(&'f Found),
}

const PORT: u16 = 11211;
const MAX_KEY: usize = 250;
const MAX_LINE: u64 = 2048;
/// The greatest value that a server can be set up to hold.
const MAX_VALUE: usize = 1 << 30;
/// A longer time is read as a moment: seconds since 1970.
const LONGEST: u64 = 30 * 24 * 3600;
/// Changes that others cross are repeated so often.
const ATTEMPTS: usize = 100;

impl Memcache {
    /// Returns the server at `HOST:PORT`. Nothing is dialled yet.
    ///
    /// # Errors
    ///
    /// As [`MemcacheBuilder::build`].
    pub fn open(server: &str) -> Result<Self, Error> {
        Self::builder().server(server).build()
    }

    /// Returns a builder.
    pub fn builder() -> MemcacheBuilder {
        MemcacheBuilder {
            servers: Vec::new(),
            user: None,
            connections: 8,
            timeout: Duration::from_secs(3),
            tls: None,
        }
    }

    /// Returns its state. With several servers it is up if all are, and `last_ok` is that of the one that has been silent for the
    /// longest time.
    pub fn stats(&self) -> BackendStats {
        let all = self.0.iter().map(Pool::stats);
        let both = all.reduce(|a, b| BackendStats {
            backend: a.backend,
            is_up: a.is_up && b.is_up,
            last_ok: a.last_ok.zip(b.last_ok).map(|(a, b)| a.max(b)),
            queue: a.queue + b.queue,
            connections: a.connections + b.connections,
        });
        both.unwrap_or_default()
    }

    /// Returns the value of a key, without the time that it has left, which servers before 1.6 do not tell.
    pub(in crate::cluster) fn get(&self, key: &str) -> Result<Option<Found>, Error> {
        self.run(key, |connection| connection.gets(key))
    }

    /// Returns the value of a key, with the time that it has left.
    pub(in crate::cluster) fn look(&self, key: &str) -> Result<Option<Found>, Error> {
        self.run(key, |connection| connection.look(key))
    }

    /// Sets a value. Without a time it stays.
    pub(in crate::cluster) fn set(
        &self,
        key: &str,
        value: &[u8],
        ttl: Option<Duration>,
    ) -> Result<(), Error> {
        self.store(key, value, expiry(ttl), Store::Always).map(drop)
    }

    /// Sets a value if there is none. Returns false if there is one.
    pub(in crate::cluster) fn add(
        &self,
        key: &str,
        value: &[u8],
        ttl: Option<Duration>,
    ) -> Result<bool, Error> {
        self.store(key, value, expiry(ttl), Store::IfNew)
    }

    /// Sets a value if it is still the one that was found. Returns false if it is not.
    pub(in crate::cluster) fn replace(
        &self,
        key: &str,
        found: &Found,
        value: &[u8],
        ttl: Option<Duration>,
    ) -> Result<bool, Error> {
        self.store(key, value, expiry(ttl), Store::IfSame(found))
    }

    /// Deletes a value if it is still the one that was found. Returns false if it is not.
    pub(in crate::cluster) fn remove(&self, key: &str, found: &Found) -> Result<bool, Error> {
        // There is no delete with a condition. A store whose time is over is one.
        self.store(key, &found.value, -1, Store::IfSame(found))
    }

    /// Stores what `change` makes of a value, which keeps the time that it has left.
    pub(in crate::cluster) fn change<R>(
        &self,
        key: &str,
        change: impl Fn(Option<&[u8]>) -> Result<(Vec<u8>, R), Error>,
    ) -> Result<R, Error> {
        for _ in 0..ATTEMPTS {
            let found = self.look(key)?;
            let (value, result) = change(found.as_ref().map(|found| &*found.value))?;
            let is_stored = match &found {
                None => self.add(key, &value, None)?,
                Some(found) => self.replace(key, found, &value, found.left)?,
            };
            if is_stored {
                return Ok(result);
            }
        }
        let problem = format!("{key:?} was changed by others at each of {ATTEMPTS} attempts");
        Err(Error::backend(Dialer::BACKEND, problem))
    }

    /// Deletes a key. Returns true if it had a value.
    pub(in crate::cluster) fn delete(&self, key: &str) -> Result<bool, Error> {
        self.run(key, |connection| {
            connection.send(&[format!("delete {key}\r\n").as_bytes()])?;
            match &*connection.line()? {
                "DELETED" => Ok(true),
                "NOT_FOUND" => Ok(false),
                other => Err(refusal(other)),
            }
        })
    }

    fn store(
        &self,
        key: &str,
        value: &[u8],
        expiry: i64,
        condition: Store<'_>,
    ) -> Result<bool, Error> {
        let len = value.len();
        let command = match condition {
            Store::Always => format!("set {key} 0 {expiry} {len}\r\n"),
            Store::IfNew => format!("add {key} 0 {expiry} {len}\r\n"),
            Store::IfSame(found) => format!("cas {key} 0 {expiry} {len} {}\r\n", found.unique),
        };
        self.run(key, |connection| {
            connection.send(&[command.as_bytes(), value, b"\r\n"])?;
            match &*connection.line()? {
                "STORED" => Ok(true),
                "NOT_STORED" | "EXISTS" | "NOT_FOUND" => Ok(false),
                other => Err(refusal(other)),
            }
        })
    }

    fn run<R>(
        &self,
        key: &str,
        work: impl FnOnce(&mut Connection) -> Result<R, Failure>,
    ) -> Result<R, Error> {
        let is_odd = |byte: u8| byte <= b' ' || byte == 0x7f;
        if key.len() > MAX_KEY || key.bytes().any(is_odd) {
            let problem = format!(
                "{key:?} is no key of memcached: use at most {MAX_KEY} bytes, prefix included, without spaces"
            );
            return Err(Error::argument("key", problem));
        }
        let index = match self.0.len() {
            1 => 0,
            servers => crc32fast::hash(key.as_bytes()) as usize % servers,
        };
        self.0[index].run(work)
    }
}

/// Returns the time of a value as the protocol has it.
fn expiry(ttl: Option<Duration>) -> i64 {
    let Some(ttl) = ttl else {
        return 0;
    };
    let rounded = u64::from(ttl.subsec_nanos() > 0);
    let seconds = ttl.as_secs().saturating_add(rounded);
    let seconds = match seconds {
        0 => 1,
        1..=LONGEST => seconds,
        _ => {
            let now = SystemTime::now().duration_since(UNIX_EPOCH);
            seconds.saturating_add(now.map_or(0, |now| now.as_secs()))
        }
    };
    // A moment that its 32 bits do not hold never comes.
    i32::try_from(seconds).map_or(0, i64::from)
}

struct Dialer {
    server: Server,
    user: Option<(String, String)>,
    timeout: Duration,
    tls: Option<TlsClient>,
}

impl Dial for Dialer {
    type Connection = Connection;

    const BACKEND: &'static str = "memcached";

    fn dial(&self) -> Result<Connection, String> {
        let stream = Stream::dial(&self.server, self.timeout, self.tls.as_ref())?;
        let mut connection = Connection(BufReader::new(stream));
        let introduced = match &self.user {
            Some((name, password)) => connection.authenticate(name, password),
            // Without it, a server that wants a user would read values as commands.
            None => connection.version(),
        };
        introduced.map_err(|failure| match failure {
            Failure::Connection(problem) | Failure::Refused(problem) => problem,
        })?;
        Ok(connection)
    }

    fn is_alive(&self, connection: &mut Connection) -> bool {
        connection.version().is_ok()
    }
}

struct Connection<S = Stream>(BufReader<S>);

impl<S: Read + Write> Connection<S> {
    fn authenticate(&mut self, name: &str, password: &str) -> Result<(), Failure> {
        let secret = format!("{name} {password}");
        let command = format!("set user 0 0 {}\r\n{secret}\r\n", secret.len());
        self.send(&[command.as_bytes()])?;
        match &*self.line()? {
            "STORED" => Ok(()),
            other => Err(refusal(other)),
        }
    }

    fn version(&mut self) -> Result<(), Failure> {
        self.send(&[b"version\r\n"])?;
        let line = self.line()?;
        match line.starts_with("VERSION ") {
            true => Ok(()),
            false => Err(refusal(&line)),
        }
    }

    fn gets(&mut self, key: &str) -> Result<Option<Found>, Failure> {
        self.send(&[format!("gets {key}\r\n").as_bytes()])?;
        let line = self.line()?;
        if line == "END" {
            return Ok(None);
        }
        let mut words = line.split(' ');
        if words.next() != Some("VALUE") {
            return Err(refusal(&line));
        }
        // The key and the flags.
        let mut words = words.skip(2);
        let len = words.next().and_then(|word| word.parse().ok());
        let unique = words.next().and_then(|word| word.parse().ok());
        let (Some(len), Some(unique)) = (len, unique) else {
            return Err(strange(&line));
        };
        let value = self.value(len)?;
        match &*self.line()? {
            "END" => Ok(Some(Found {
                value,
                unique,
                left: None,
            })),
            other => Err(strange(other)),
        }
    }

    fn look(&mut self, key: &str) -> Result<Option<Found>, Failure> {
        self.send(&[format!("mg {key} t c v\r\n").as_bytes()])?;
        let line = self.line()?;
        let mut words = line.split(' ');
        match words.next() {
            Some("EN") => return Ok(None),
            Some("VA") => {}
            Some("ERROR") => {
                let problem = "it does not know `mg`; use memcached 1.6 or later";
                return Err(Failure::Refused(problem.to_owned()));
            }
            _ => return Err(refusal(&line)),
        }
        let len = words.next().and_then(|word| word.parse().ok());
        let (mut unique, mut left) = (None, None);
        for word in words {
            if let Some(number) = word.strip_prefix('c') {
                unique = number.parse().ok();
            } else if let Some(seconds) = word.strip_prefix('t') {
                left = seconds.parse().ok().map(Duration::from_secs);
            }
        }
        let (Some(len), Some(unique)) = (len, unique) else {
            return Err(strange(&line));
        };
        Ok(Some(Found {
            value: self.value(len)?,
            unique,
            left,
        }))
    }

    fn send(&mut self, parts: &[&[u8]]) -> Result<(), Failure> {
        let command = parts.concat();
        let stream = self.0.get_mut();
        let sent = stream.write_all(&command).and_then(|()| stream.flush());
        sent.map_err(|error| lost(&error))
    }

    fn line(&mut self) -> Result<String, Failure> {
        let mut line = Vec::new();
        let mut limited = (&mut self.0).take(MAX_LINE);
        limited
            .read_until(b'\n', &mut line)
            .map_err(|error| lost(&error))?;
        if line.pop() != Some(b'\n') {
            return Err(Failure::Connection(
                "the connection is closed, or a line too long".to_owned(),
            ));
        }
        if line.last() == Some(&b'\r') {
            line.pop();
        }
        String::from_utf8(line).map_err(|_| strange("a line that is no text"))
    }

    fn value(&mut self, len: usize) -> Result<Vec<u8>, Failure> {
        if len > MAX_VALUE {
            return Err(strange("a value that is too long"));
        }
        let mut value = Vec::new();
        let mut limited = (&mut self.0).take(len as u64 + 2);
        limited
            .read_to_end(&mut value)
            .map_err(|error| lost(&error))?;
        match value.ends_with(b"\r\n") && value.len() == len + 2 {
            true => value.truncate(len),
            false => return Err(strange("a value that does not end where it should")),
        }
        Ok(value)
    }
}

fn lost(error: &io::Error) -> Failure {
    Failure::Connection(match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
            "it has not answered in time".to_owned()
        }
        _ => error.to_string(),
    })
}

/// The server has answered with an error, and the connection can be used.
fn refusal(line: &str) -> Failure {
    match line.starts_with("CLIENT_ERROR") || line.starts_with("SERVER_ERROR") {
        true => Failure::Refused(line.to_owned()),
        false => strange(line),
    }
}

/// The connection can no longer be used.
fn strange(what: &str) -> Failure {
    Failure::Connection(format!("it answers strangely: {what}"))
}

/// Reads the answers of a server to requests of one kind, up to the end or a fault. Returns the values. For fuzzing.
#[cfg(feature = "internals")]
pub fn memcached_values(with_time: bool, bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut connection = Connection(BufReader::new(super::stream::Recorded(bytes)));
    let mut values = Vec::new();
    loop {
        let found = match with_time {
            true => connection.look("key"),
            false => connection.gets("key"),
        };
        match found {
            Ok(Some(found)) => values.push(found.value),
            Ok(None) | Err(Failure::Refused(_)) => {}
            Err(Failure::Connection(_)) => return values,
        }
    }
}

impl MemcacheBuilder {
    /// Adds a server, as `HOST` or `HOST:PORT`. All programs that share the keys name the same servers in the same order.
    pub fn server(mut self, address: impl Into<String>) -> Self {
        self.servers.push(address.into());
        self
    }

    /// Sets the user, for servers with `--auth-file`.
    pub fn user(mut self, name: impl Into<String>, password: impl Into<String>) -> Self {
        self.user = Some((name.into(), password.into()));
        self
    }

    /// Sets the maximum number of connections to each server. Calls of more threads wait. The default is 8.
    pub fn connections(mut self, connections: usize) -> Self {
        self.connections = connections;
        self
    }

    /// Sets the time that a call may take: to wait for a connection, to dial, to send a request, and to get the answer, each. The default is 3 s.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Has the connections use TLS. The default is none.
    pub fn tls(mut self, tls: &TlsClient) -> Self {
        self.tls = Some(tls.clone());
        self
    }

    /// Returns the backend. Nothing is dialled yet.
    ///
    /// # Errors
    ///
    /// Returns [`Error::InvalidArgument`] if there is no server, one is not `HOST:PORT`, the user has a space or a control character,
    /// or the timeout is below 1 ms or above an hour.
    pub fn build(self) -> Result<Memcache, Error> {
        super::check_timeout(self.timeout)?;
        if let Some((name, password)) = &self.user {
            let is_odd = |c: char| c == ' ' || c.is_control();
            if name.contains(is_odd) || password.contains(is_odd) {
                let problem = "memcached allows no spaces in a user and its password";
                return Err(Error::argument("user", problem));
            }
        }
        if self.servers.is_empty() {
            let problem = "there is none; give one, such as 127.0.0.1:11211";
            return Err(Error::argument("server", problem));
        }
        let pools = self.servers.iter().map(|address| {
            let server = Server::parse(address, PORT).ok_or_else(|| {
                let problem = format!("{address:?} is not HOST:PORT");
                Error::argument("server", problem)
            })?;
            let dialer = Dialer {
                server,
                user: self.user.clone(),
                timeout: self.timeout,
                tls: self.tls.clone(),
            };
            Ok(Pool::new(dialer, self.connections, self.timeout))
        });
        Ok(Memcache(Arc::new(pools.collect::<Result<_, Error>>()?)))
    }
}

impl fmt::Debug for MemcacheBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemcacheBuilder")
            .field("servers", &self.servers)
            .field("connections", &self.connections)
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Memcache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Memcache")
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use proptest::collection;
    use proptest::prelude::*;

    use super::*;

    /// The requests. What they write here is written over the beginning of what was sent.
    const GETS: &[u8] = b"gets key\r\n";
    const LOOK: &[u8] = b"mg key t c v\r\n";

    /// A connection on which a server has sent this.
    fn sent(bytes: &[u8]) -> Connection<Cursor<Vec<u8>>> {
        Connection(BufReader::new(Cursor::new(bytes.to_vec())))
    }

    proptest! {
        #[test]
        fn values_are_read_whatever_they_hold(
            value in collection::vec(any::<u8>(), 0..100),
            unique in any::<u64>(),
            left in 0..u32::MAX,
        ) {
            let len = value.len();
            let classic = [format!("VALUE key 0 {len} {unique}\r\n").as_bytes(), &value, b"\r\nEND\r\n"].concat();
            let meta = [format!("VA {len} c{unique} t{left}\r\n").as_bytes(), &value, b"\r\n"].concat();
            let found = sent(&[&[0; GETS.len()], &classic[..]].concat()).gets("key");
            let Ok(Some(found)) = found else {
                return Err(TestCaseError::fail("it is not read"));
            };
            prop_assert_eq!((&found.value, found.unique, found.left), (&value, unique, None));
            let found = sent(&[&[0; LOOK.len()], &meta[..]].concat()).look("key");
            let Ok(Some(found)) = found else {
                return Err(TestCaseError::fail("it is not read"));
            };
            let time = Some(Duration::from_secs(left.into()));
            prop_assert_eq!((&found.value, found.unique, found.left), (&value, unique, time));
        }

        #[test]
        fn no_answer_is_too_odd(answer in collection::vec(prop_oneof![any::<u8>(), Just(b'\n'), Just(b' '), Just(b'9')], 0..200)) {
            for head in [&b"VALUE key 0 "[..], b"VA ", b""] {
                let answer = [head, &answer].concat();
                let _ = sent(&[&[0; GETS.len()], &answer[..]].concat()).gets("key");
                let _ = sent(&[&[0; LOOK.len()], &answer[..]].concat()).look("key");
            }
        }
    }
}
