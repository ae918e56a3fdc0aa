//! The users of a listener: a file of names and hashes of passwords.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use argon2::Argon2;
use argon2::password_hash::PasswordVerifier;
use argon2::password_hash::phc::PasswordHash;
use blake2::Blake2sMac256;
use blake2::digest::{KeyInit, Mac};
use parking_lot::Mutex;

use crate::error::error_messages;
use crate::sys::files::read_at_most;

/// The users of a listener, with the hashes of their passwords.
///
/// The file has a user a line: the name, a colon, and a hash of Argon2 in the PHC format (`$argon2id$…`) or of bcrypt
/// (`$2b$…`), as `htpasswd -B` writes it. Empty lines and lines that begin with `#` are comments.
///
/// A check takes as long as the hash demands, tens of milliseconds for example, on a thread for such work. So a password that
/// was right is remembered for 5 minutes, as a keyed digest.
///
/// ```
/// use epicycle::gateway::Users;
///
/// let users = Users::parse("alice:$2b$04$DT5QgPWgDiLIX1b03H92ROYW5Kb4WW43onJagPX2D0RM0XDrt1.iG\n")?;
/// assert_eq!(users.len(), 1);
/// # Ok::<(), epicycle::gateway::UsersError>(())
/// ```
#[derive(Clone)]
pub struct Users(Arc<Table>);

struct Table {
    hashes: HashMap<Box<str>, Hash>,
    /// The key of the digests of passwords.
    key: [u8; 32],
    /// The passwords that were right, by user.
    remembered: Mutex<HashMap<Box<str>, Remembered>>,
    failures: Mutex<HashMap<IpAddr, Failures>>,
}

/// A hash of a password, in its text form.
#[derive(PartialEq, Eq)]
enum Hash {
    Argon2(Box<str>),
    Bcrypt(Box<str>),
}

struct Remembered {
    digest: [u8; 32],
    until: Instant,
}

/// The failures of an address.
struct Failures {
    count: u32,
    last: Instant,
}

/// The most bytes of a file.
const MAX_FILE: u64 = 8 << 20;

/// The time for which a password that was right is not checked again.
const REMEMBERED_FOR: Duration = Duration::from_secs(5 * 60);

/// The failures of an address that are answered at once.
const FREE_FAILURES: u32 = 5;

/// The delay of the answer to each further failure.
const DELAY: Duration = Duration::from_secs(1);

/// The time after its last failure for which an address is known.
const FAILURES_COUNT_FOR: Duration = Duration::from_secs(60);

/// The most addresses whose failures are known.
const MAX_ADDRESSES: usize = 10_000;

/// The reason why there are no users.
#[non_exhaustive]
pub enum UsersError {
    /// The file cannot be read.
    Read {
        /// The file.
        path: PathBuf,
        /// The error of the system.
        source: io::Error,
    },
    /// A line cannot be used.
    Line {
        /// Its number, counted from 1.
        line: usize,
        /// The problem and its remedy.
        problem: &'static str,
    },
    /// The file names nobody.
    Empty,
}

error_messages! {
    UsersError {
        UsersError::Read { path, source } => "cannot read {}: {source}" (path.display()),
        UsersError::Line { line, problem } => "line {line} of the users: {problem}",
        UsersError::Empty => "the file names no user; write NAME:HASH, as `htpasswd -nB NAME` prints it",
    }
    causes {
        UsersError::Read { source, .. } => source,
    }
}

impl Users {
    /// Reads a file.
    ///
    /// # Errors
    ///
    /// [`UsersError`].
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self, UsersError> {
        let path = path.as_ref();
        let failed = |source| UsersError::Read {
            path: path.to_owned(),
            source,
        };
        let text = read_at_most(MAX_FILE, path).map_err(failed)?;
        let too_large = || io::Error::new(io::ErrorKind::FileTooLarge, "it is larger than 8 MiB");
        let text = text.ok_or_else(too_large).map_err(failed)?;
        let no_text = |_| {
            io::Error::new(
                io::ErrorKind::InvalidData,
                "it is no text; save it as UTF-8",
            )
        };
        let text = String::from_utf8(text).map_err(no_text).map_err(failed)?;
        Self::parse(&text)
    }

    /// Reads the text of such a file.
    ///
    /// # Errors
    ///
    /// [`UsersError`].
    pub fn parse(text: &str) -> Result<Self, UsersError> {
        let mut hashes = HashMap::new();
        for (line, text) in (1..).zip(text.lines()) {
            let text = text.trim();
            if text.is_empty() || text.starts_with('#') {
                continue;
            }
            let wrong = |problem| UsersError::Line { line, problem };
            let (name, hash) = text
                .split_once(':')
                .ok_or_else(|| wrong("write NAME:HASH, as `htpasswd -nB NAME` prints it"))?;
            if !(1..=255).contains(&name.len()) {
                return Err(wrong("the name must have 1 to 255 bytes"));
            }
            let hash = Hash::parse(hash).map_err(wrong)?;
            if hashes.insert(name.into(), hash).is_some() {
                return Err(wrong("the name is there already; remove one of the lines"));
            }
        }
        if hashes.is_empty() {
            return Err(UsersError::Empty);
        }
        Ok(Self(Arc::new(Table {
            hashes,
            key: rand::random(),
            remembered: Mutex::default(),
            failures: Mutex::default(),
        })))
    }

    /// Returns the number of users.
    #[expect(clippy::len_without_is_empty, reason = "it is never empty")]
    pub fn len(&self) -> usize {
        self.0.hashes.len()
    }

    /// Returns true for the same value, with the same memory of passwords.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Returns true if this password of the user was right a while ago.
    pub(crate) fn remembers(&self, user: &str, password: &[u8], now: Instant) -> bool {
        let remembered = self.0.remembered.lock();
        remembered.get(user).is_some_and(|known| {
            known.until > now && self.digest(password).verify_slice(&known.digest).is_ok()
        })
    }

    /// Returns true if the password is that of the user. It takes long, on purpose.
    pub(crate) fn verify(&self, user: &str, password: &[u8]) -> bool {
        match self.0.hashes.get(user) {
            Some(hash) => hash.verify(password),
            None => {
                // So that nobody finds out by the time it takes which names there are.
                if let Some(hash) = self.0.hashes.values().next() {
                    let _ = hash.verify(password);
                }
                false
            }
        }
    }

    /// Notes that a password was right.
    pub(crate) fn remember(&self, user: &str, password: &[u8], now: Instant) {
        let Some(until) = now.checked_add(REMEMBERED_FOR) else {
            return;
        };
        let digest = self.digest(password).finalize().into_bytes().into();
        let known = Remembered { digest, until };
        self.0.remembered.lock().insert(user.into(), known);
    }

    /// Notes that a password from this address was wrong. Returns the delay of the answer.
    pub(crate) fn note_failure(&self, ip: IpAddr, now: Instant) -> Duration {
        let mut failures = self.0.failures.lock();
        let is_old =
            |known: &Failures| now.saturating_duration_since(known.last) > FAILURES_COUNT_FOR;
        if failures.len() >= MAX_ADDRESSES {
            failures.retain(|_, known| !is_old(known));
            if failures.len() >= MAX_ADDRESSES {
                // So many addresses at once are one attack. Each further one waits.
                return DELAY;
            }
        }
        let known = failures.entry(network(ip)).or_insert(Failures {
            count: 0,
            last: now,
        });
        if is_old(known) {
            known.count = 0;
        }
        known.count = known.count.saturating_add(1);
        known.last = now;
        match known.count > FREE_FAILURES {
            true => DELAY,
            false => Duration::ZERO,
        }
    }

    fn digest(&self, password: &[u8]) -> Blake2sMac256 {
        let mut mac = Blake2sMac256::new(&self.0.key.into());
        mac.update(password);
        mac
    }
}

/// Returns the part of an address that one host or household has: all of IPv4, and 64 bits of IPv6.
pub(super) fn network(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(ip) => {
            let [a, b, c, d, ..] = ip.segments();
            IpAddr::from([a, b, c, d, 0, 0, 0, 0])
        }
        ip => ip,
    }
}

impl Hash {
    fn parse(text: &str) -> Result<Self, &'static str> {
        if text.starts_with("$argon2") {
            return match PasswordHash::new(text) {
                Ok(_) => Ok(Hash::Argon2(text.into())),
                Err(_) => Err("the hash of Argon2 is damaged"),
            };
        }
        if text.starts_with("$2") {
            return match text.parse::<bcrypt::HashParts>() {
                Ok(_) => Ok(Hash::Bcrypt(text.into())),
                Err(_) => Err("the hash of bcrypt is damaged"),
            };
        }
        Err(
            "the hash is neither of Argon2 ($argon2id$…) nor of bcrypt ($2b$…); `htpasswd -nB NAME` prints such a line",
        )
    }

    fn verify(&self, password: &[u8]) -> bool {
        match self {
            Hash::Argon2(text) => PasswordHash::new(text)
                .is_ok_and(|hash| Argon2::default().verify_password(password, &hash).is_ok()),
            Hash::Bcrypt(text) => bcrypt::verify(password, text).unwrap_or(false),
        }
    }
}

/// Equal users have the same names with the same hashes.
impl PartialEq for Users {
    fn eq(&self, other: &Self) -> bool {
        self.is_same(other) || self.0.hashes == other.0.hashes
    }
}

impl Eq for Users {}

impl fmt::Debug for Users {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Users").field("len", &self.len()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The password is `secret`, with the least cost.
    const ARGON2: &str = "$argon2id$v=19$m=8,t=1,p=1$qN4PqsnY4l0YMAVIaLTP2A$LgPdYBqJyKUGCNb0YO8C1SL1donv37pfPArCgOVWTXg";
    const BCRYPT: &str = "$2b$04$DT5QgPWgDiLIX1b03H92ROYW5Kb4WW43onJagPX2D0RM0XDrt1.iG";

    fn users() -> Users {
        let text = format!("# staff\nalice:{ARGON2}\n\nbob:{BCRYPT}\n");
        Users::parse(&text).expect("is sound")
    }

    #[test]
    fn only_the_password_of_a_user_is_right() {
        let users = users();
        for user in ["alice", "bob"] {
            assert!(users.verify(user, b"secret"), "{user}");
            assert!(!users.verify(user, b"Secret"), "{user}");
            assert!(!users.verify(user, b""), "{user}");
        }
        assert!(!users.verify("carol", b"secret"));
    }

    #[test]
    fn a_right_password_is_remembered_for_five_minutes_and_no_other_is() {
        let (users, now) = (users(), Instant::now());
        assert!(!users.remembers("alice", b"secret", now));
        users.remember("alice", b"secret", now);
        assert!(users.remembers("alice", b"secret", now));
        assert!(!users.remembers("alice", b"Secret", now));
        assert!(!users.remembers("bob", b"secret", now));
        assert!(!users.remembers("alice", b"secret", now + REMEMBERED_FOR));
    }

    #[test]
    fn the_sixth_failure_of_an_address_and_each_further_one_is_answered_late() {
        let (users, now) = (users(), Instant::now());
        let ip: IpAddr = "2001:db8::1".parse().expect("an address");
        let neighbour: IpAddr = "2001:db8::2".parse().expect("an address");
        let other: IpAddr = "2001:db8:0:1::1".parse().expect("an address");
        for _ in 0..FREE_FAILURES {
            assert_eq!(users.note_failure(ip, now), Duration::ZERO);
        }
        assert_eq!(users.note_failure(ip, now), DELAY);
        assert_eq!(users.note_failure(neighbour, now), DELAY);
        assert_eq!(users.note_failure(other, now), Duration::ZERO);
        let later = now + FAILURES_COUNT_FOR + DELAY;
        assert_eq!(users.note_failure(ip, later), Duration::ZERO);
    }

    #[test]
    fn failures_of_very_many_addresses_take_bounded_memory() {
        let (users, now) = (users(), Instant::now());
        for n in 0..2 * MAX_ADDRESSES as u32 {
            users.note_failure(IpAddr::from(n.to_be_bytes()), now);
        }
        assert_eq!(users.0.failures.lock().len(), MAX_ADDRESSES);
    }

    #[test]
    fn a_file_that_cannot_be_used_names_the_line() {
        for (text, expected) in [
            ("", "no user"),
            ("alice", "line 1 of the users: write NAME:HASH"),
            (
                "# a\nalice:plain",
                "line 2 of the users: the hash is neither",
            ),
            (":x", "the name must have"),
            ("alice:$argon2id$x", "Argon2 is damaged"),
            ("alice:$2b$x", "bcrypt is damaged"),
            (
                &format!("a:{BCRYPT}\na:{BCRYPT}"),
                "line 2 of the users: the name is there already",
            ),
        ] {
            let error = Users::parse(text).expect_err(text);
            assert!(error.to_string().contains(expected), "{error}");
        }
    }
}
