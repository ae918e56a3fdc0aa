//! Encryption of bodies and queries, message by message, as Teleport's `secure` plugin has it, and a mode that deserves the name.
//!
//! A call or push with the metadata `X-Secure=true` ([`SECURE`]) is encrypted before it leaves. Its reply is encrypted too,
//! unless it has `X-Accept-Secure=false` ([`ACCEPT`]). The reply to a plain call with `X-Accept-Secure=true` is encrypted. The other side has
//! the plugin and the key as well.
//!
//! ```
//! use epicycle::rpc::plugins::secure::{SECURE, Secure};
//! use epicycle::rpc::{Peer, Router};
//!
//! let key = b"0123456789abcdef0123456789abcdef";
//! let mut routes = Router::new();
//! routes.call("/math/add", |_ctx, numbers: Vec<i64>| Ok(numbers.iter().sum::<i64>()));
//! let server = Peer::builder()
//!     .listen("tcp://127.0.0.1:0")
//!     .routes(routes)
//!     .plugin(Secure::new("2026-11", key)?)
//!     .start()?;
//!
//! let client = Peer::builder().plugin(Secure::new("2026-11", key)?).start()?;
//! let session = client.dial(&server.local_addrs()[0])?;
//! let sum = session.call("/math/add", &[1, 2]).meta(SECURE, "true").wait();
//! assert_eq!(sum, Ok(3));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # The two modes
//!
//! | | AES-GCM ([`Secure::new`]) | AES-ECB ([`Secure::for_old_peers`]) |
//! |---|---|---|
//! | for | peers of this crate | Teleport's programs |
//! | hides body and query | yes | equal blocks of 16 bytes show as equal |
//! | a changed text is noticed | always | seldom |
//! | a text that is moved to another message is noticed | yes: it is bound to its direction, kind, URI, `seq` and body codec | no |
//! | a reply that answers another call is noticed | yes, unless the application sets a `seq` twice | no |
//! | a reply whose encryption was taken away is noticed | yes, unless the application sets the `seq` | no |
//! | a reply is encrypted whatever happened to the call's `X-Accept-Secure` on the way | yes, unless the application sets the `seq` | no |
//! | a reply in the other mode is refused | yes, unless the application sets the `seq` | no |
//! | keys can be rotated | yes, by their ids | no |
//!
//! Neither mode hides or protects the path, the `seq`, other metadata, the sizes, and the status of a call that failed. Neither
//! notices a message that is sent **again**: whoever can record a call can have it served a second time, also on another session
//! with the same key. Neither has forward secrecy. TLS has all of that; use it where you can, and this where messages pass
//! through others. A proxy that changes `seq`s, such as [`proxy`](super::proxy), can pass only ECB on.
//!
//! A text that does not decrypt is answered with one status, whatever is wrong with it, so that nobody learns about a text by
//! changing it. In ECB mode the same status stands for a decrypted body that cannot be decoded, and a path without a route is
//! answered with 404 whether the text decrypts or not.
//!
//! A key of AES-GCM is good for 2³² messages, because each has a random nonce of 96 bits. Take a new one by then.
//!
//! # Not encrypted
//!
//! Messages before the session opens (`auth`), items of streams, and cancellations. Plugins that read the query or the body, or
//! change the URI, must stand behind this one. Of two peers that share a socket from
//! elsewhere, one takes it over with [`serve`](crate::rpc::Peer::serve), and the other one with
//! [`serve_dialled`](crate::rpc::Peer::serve_dialled).

mod aead;
mod ecb;

use std::borrow::Cow;
use std::fmt;

use self::aead::{Key, NONCE, Part, Place};
use self::ecb::{Envelope, OldKey};
use crate::error::Error;
use crate::rpc::context::Incoming;
use crate::rpc::plugin::{Hooks, Plugin};
use crate::rpc::session::Session;
use crate::rpc::wire::{Codecs, Dialect, Dual, Message, Meta, Status, code};

/// The key of metadata that asks for encryption (`true`), and tells about it on the wire. With both modes at hand `ecb` asks
/// for that of old peers.
pub const SECURE: &str = "X-Secure";

/// The key of metadata that asks for a reply that is encrypted (`true`) or is not (`false`). With both modes at hand `ecb`
/// asks for that of old peers.
pub const ACCEPT: &str = "X-Accept-Secure";

/// The plugin that encrypts. It is for a peer.
#[derive(Debug)]
pub struct Secure {
    /// The first one encrypts.
    keys: Vec<Key>,
    old: Option<OldKey>,
    dialect: Dialect,
    is_always: bool,
    is_required: bool,
    status: Status,
}

/// A way to encrypt, and its key.
#[derive(Clone, Copy)]
enum Mode<'a> {
    Gcm(&'a Key),
    Ecb(&'a OldKey),
}

/// The value of [`SECURE`] in a message that is encrypted with AES-GCM, without the id of the key.
const GCM: &str = "gcm:";

/// The value of [`SECURE`] in a message that did not decrypt. A peer that sends it is refused as well.
const UNREADABLE: &[u8] = b"unreadable";

/// The beginning of a `seq` that this plugin has made. The reply is encrypted.
const SEALED_REPLY: u8 = b'~';

/// The same, for a reply that is not.
const PLAIN_REPLY: u8 = b'-';

impl Secure {
    /// Returns a plugin that encrypts with AES-GCM. The key has 16, 24 or 32 bytes; use 32 random ones. Its id is in the
    /// metadata of each message.
    ///
    /// # Errors
    ///
    /// [`Error::Option`] for a key of another length.
    pub fn new(id: impl Into<String>, key: impl AsRef<[u8]>) -> Result<Self, Error> {
        Self::empty().accept_key(id, key)
    }

    /// Returns a plugin for old peers. It encrypts with AES-ECB, whose key has 16, 24 or 32 bytes.
    ///
    /// # Errors
    ///
    /// [`Error::Option`] for a key of another length.
    pub fn for_old_peers(key: impl AsRef<[u8]>) -> Result<Self, Error> {
        Self::empty().and_old_peers(key)
    }

    fn empty() -> Self {
        let reason = "the message cannot be decrypted";
        Self {
            keys: Vec::new(),
            old: None,
            dialect: Dialect::default(),
            is_always: false,
            is_required: false,
            status: Status::of(code::BAD_MESSAGE, Dialect::default()).with_reason(reason),
        }
    }

    /// Adds a key that only decrypts. To rotate a key, first have all peers accept the new one, then encrypt with it and accept the
    /// old one, then drop that.
    ///
    /// # Errors
    ///
    /// [`Error::Option`] for a key of another length, and for an id that another key has.
    pub fn accept_key(
        mut self,
        id: impl Into<String>,
        key: impl AsRef<[u8]>,
    ) -> Result<Self, Error> {
        let id = id.into();
        if self.keys.iter().any(|key| key.id == id) {
            return Err(option(format!("two keys have the id {id:?}")));
        }
        let key = Key::new(id, key.as_ref()).ok_or_else(bad_length)?;
        self.keys.push(key);
        Ok(self)
    }

    /// Takes messages of old peers as well. Use a key of its own: its MD5 is in each of their messages.
    ///
    /// # Errors
    ///
    /// [`Error::Option`] for a key of another length.
    pub fn and_old_peers(mut self, key: impl AsRef<[u8]>) -> Result<Self, Error> {
        self.old = Some(OldKey::new(key.as_ref()).ok_or_else(bad_length)?);
        Ok(self)
    }

    /// Encrypts all calls and pushes, as if each had `X-Secure=true`.
    pub fn always(mut self) -> Self {
        self.is_always = true;
        self
    }

    /// Refuses calls, pushes and replies that are not encrypted, as if they could not be decrypted. A reply with a status has
    /// nothing to encrypt.
    pub fn required(mut self) -> Self {
        self.is_required = true;
        self
    }

    /// Sets the status for messages that cannot be decrypted. Default: 400, with a reason.
    pub fn status(mut self, status: Status) -> Self {
        self.status = status;
        self
    }

    /// Sets the dialect of calls and pushes to old peers. In that of v4.0.0 the query is not encrypted. Default: v4.1. A reply
    /// goes by its call.
    pub fn dialect(mut self, dialect: Dialect) -> Self {
        self.dialect = dialect;
        self
    }

    /// Returns the way that the application asks for.
    fn mode_asked(&self, asked: &[u8]) -> Result<Mode<'_>, Status> {
        let gcm = || self.keys.first().map(Mode::Gcm);
        let ecb = || self.old.as_ref().map(Mode::Ecb);
        let mode = match asked {
            b"ecb" => ecb(),
            b"true" => gcm().or_else(ecb),
            // A message that was decrypted goes on.
            asked if asked.starts_with(GCM.as_bytes()) => gcm(),
            _ => None,
        };
        mode.ok_or_else(|| {
            let reason = "no key for this kind of encryption; use `true`";
            Status::of(code::UNKNOWN_ERROR, Dialect::default()).with_reason(reason)
        })
    }

    /// Returns the way in which a message is encrypted. Returns `None` if it is not.
    fn mode_of(&self, meta: &Meta<'_>) -> Result<Option<Mode<'_>>, Status> {
        let Some(told) = meta.get(SECURE) else {
            return Ok(None);
        };
        let mode = match &*told {
            b"true" => self.old.as_ref().map(Mode::Ecb),
            told => told.strip_prefix(GCM.as_bytes()).and_then(|id| {
                let key = self.keys.iter().find(|key| key.id.as_bytes() == id);
                key.map(Mode::Gcm)
            }),
        };
        mode.map(Some).ok_or_else(|| self.status.clone())
    }

    /// Encrypts a call or a push, if it is to be.
    fn seal(&self, session: &Session, message: &mut Message<'static>) -> Result<(), Status> {
        let asked = message.meta.get(SECURE).map(Cow::into_owned);
        let asked = asked.or_else(|| self.is_always.then(|| b"true".to_vec()));
        if let Some(accepted) = message.meta.get(ACCEPT)
            && *accepted != *b"false"
        {
            let told = match self.mode_asked(&accepted)? {
                Mode::Gcm(_) => "gcm:",
                Mode::Ecb(_) => "true",
            };
            message.meta.set(ACCEPT, told);
        }
        let Some(asked) = asked else {
            return Ok(());
        };
        let codecs = &session.shared().formats.codecs;
        match self.mode_asked(&asked)? {
            Mode::Ecb(key) => {
                if self.dialect == Dialect::V4_1 {
                    let (path, query) = split(&message.uri);
                    if !query.is_empty() {
                        let text = key.seal(query);
                        message.uri = sealed_uri(path, &text, key.version()).into();
                    }
                }
                message.meta.set(SECURE, "true");
                seal_envelope(message, key, self.dialect, codecs)
            }
            Mode::Gcm(key) => {
                let nonce = rand::random();
                if message.seq.is_empty() {
                    // A `seq` that nobody can guess, and no other message has, ties the reply to this call.
                    let is_plain = message
                        .meta
                        .get(ACCEPT)
                        .is_some_and(|told| *told == *b"false");
                    let mut seq = vec![if is_plain { PLAIN_REPLY } else { SEALED_REPLY }];
                    seq.extend_from_slice(hex::encode(nonce).as_bytes());
                    message.seq = seq.into();
                }
                message.meta.set(SECURE, format!("{GCM}{}", key.id));
                self.seal_query(key, session, message)?;
                seal_body(key, nonce, session, message, false)
            }
        }
    }

    fn seal_query(
        &self,
        key: &Key,
        session: &Session,
        message: &mut Message<'_>,
    ) -> Result<(), Status> {
        let (path, query) = split(&message.uri);
        if query.is_empty() {
            return Ok(());
        }
        let place = Place {
            uri: path,
            ..place(message, Part::Query, session.is_client())
        };
        let sealed = key
            .seal(rand::random(), query, place)
            .ok_or_else(too_long)?;
        message.uri = sealed_uri(path, &hex::encode(sealed), &key.id).into();
        Ok(())
    }

    /// Decrypts a call or a push, if it is encrypted.
    fn open(&self, message: &mut Incoming<'_>) -> Result<(), Status> {
        let Some(mode) = self.mode_of(message.meta())? else {
            return match self.is_required {
                true => Err(self.status.clone()),
                false => Ok(()),
            };
        };
        let (session, refused) = (message.session().clone(), || self.status.clone());
        if let Mode::Ecb(_) = mode {
            message.set_bad_body(refused());
        }
        let encrypted = message.message_mut();
        let (path, query) = split(&encrypted.uri);
        let args = Meta::from_encoded(query);
        let sealed_query = args.get("ciphertext").zip(args.get_str("cipherversion"));
        let (body, query) = match mode {
            Mode::Ecb(key) => {
                let body = open_envelope(encrypted, key, &session.shared().formats.codecs);
                let query = sealed_query.map(|(text, version)| key.open(&version, &text));
                (body, query)
            }
            Mode::Gcm(key) => {
                let from_dialler = !session.is_client();
                let in_body = place(encrypted, Part::Body, from_dialler);
                let body = key.open(&encrypted.body, in_body);
                let in_query = Place {
                    uri: path,
                    ..place(encrypted, Part::Query, from_dialler)
                };
                let query = sealed_query.map(|(text, version)| {
                    let key = self.keys.iter().find(|key| key.id == version)?;
                    key.open(&hex::decode(text).ok()?, in_query)
                });
                (body, query)
            }
        };
        let is_readable = body.is_some() && !matches!(query, Some(None));
        if !is_readable && let Mode::Ecb(_) = mode {
            // It is refused once its route is found, so that nobody learns from a path without a route whether a text decrypts.
            encrypted.meta.set(SECURE, UNREADABLE);
            return Ok(());
        }
        if let Some(query) = query {
            let query = query.ok_or_else(refused)?;
            encrypted.uri = [path, b"?", &query].concat().into();
        }
        encrypted.body = body.ok_or_else(refused)?.into();
        Ok(())
    }

    /// Refuses a call or a push that did not decrypt.
    fn check_readable(&self, message: &Incoming<'_>) -> Result<(), Status> {
        match message.meta().get(SECURE).as_deref() == Some(UNREADABLE) {
            true => Err(self.status.clone()),
            false => Ok(()),
        }
    }

    /// Decrypts a reply, if it is encrypted.
    fn open_reply(&self, session: &Session, reply: &mut Message<'_>) -> Result<(), Status> {
        let is_owed = !self.keys.is_empty() && demands_sealed_reply(&reply.seq);
        let Some(mode) = self.mode_of(&reply.meta)? else {
            return match self.is_required || is_owed {
                true => Err(self.status.clone()),
                false => Ok(()),
            };
        };
        let body = match mode {
            // Anybody can make one of pieces of earlier messages.
            Mode::Ecb(_) if is_owed => None,
            Mode::Ecb(key) => open_envelope(reply, key, &session.shared().formats.codecs),
            Mode::Gcm(key) => {
                let mut place = place(reply, Part::Body, !session.is_client());
                // Only some dialects have it in a reply. Its call has it.
                place.uri = b"";
                key.open(&reply.body, place)
            }
        };
        reply.body = body.ok_or_else(|| self.status.clone())?.into();
        // A proxy would pass it on.
        reply.meta.remove(SECURE);
        Ok(())
    }

    fn seal_reply(&self, call: &Incoming<'_>, reply: &mut Message<'_>) -> Result<(), Status> {
        if reply.status().is_some() {
            return Ok(());
        }
        let accepted = call.meta().get(ACCEPT);
        let mode = match (self.mode_of(call.meta())?, accepted.as_deref()) {
            // The metadata may have been changed on the way, and the `seq` was verified with the body.
            (Some(mode @ Mode::Gcm(_)), _) if demands_sealed_reply(call.seq()) => mode,
            (_, Some(b"false")) => return Ok(()),
            // An encrypted call gets an encrypted reply of its kind.
            (Some(mode), _) => mode,
            (None, Some(b"true")) => self.old.as_ref().map(Mode::Ecb).ok_or_else(no_key)?,
            (None, Some(b"gcm:")) => self.keys.first().map(Mode::Gcm).ok_or_else(no_key)?,
            (None, _) => return Ok(()),
        };
        match mode {
            Mode::Ecb(key) => {
                reply.meta.set(SECURE, "true");
                seal_envelope(reply, key, call.dialect, call.codecs())
            }
            Mode::Gcm(key) => {
                reply.meta.set(SECURE, format!("{GCM}{}", key.id));
                seal_body(key, rand::random(), call.session(), reply, true)
            }
        }
    }
}

/// Returns true for a `seq` by which this plugin has told that its call demands an encrypted reply.
fn demands_sealed_reply(seq: &[u8]) -> bool {
    seq.len() == 1 + 2 * NONCE && seq[0] == SEALED_REPLY
}

fn bad_length() -> Error {
    option("a key has 16, 24 or 32 bytes".to_owned())
}

fn option(problem: String) -> Error {
    let name = "secure";
    Error::Option { name, problem }
}

fn too_long() -> Status {
    Status::of(code::UNKNOWN_ERROR, Dialect::default()).with_reason("too long to be encrypted")
}

fn no_key() -> Status {
    let reason = "this side has no key for an encrypted reply of that kind";
    Status::of(code::BAD_MESSAGE, Dialect::default()).with_reason(reason)
}

/// Returns the parts of a URI before and after its first `?`.
fn split(uri: &[u8]) -> (&[u8], &[u8]) {
    let end = uri.iter().position(|byte| *byte == b'?');
    match end {
        Some(end) => (&uri[..end], &uri[end + 1..]),
        None => (uri, b""),
    }
}

fn sealed_uri(path: &[u8], text: &str, version: &str) -> Vec<u8> {
    let mut query = Meta::default();
    query.add("ciphertext", text);
    query.add("cipherversion", version);
    [path, b"?", query.encoded()].concat()
}

fn place<'a>(message: &'a Message<'_>, part: Part, is_from_dialler: bool) -> Place<'a> {
    Place {
        part,
        kind: message.kind,
        is_from_dialler,
        codec: message.codec,
        uri: &message.uri,
        seq: &message.seq,
    }
}

fn seal_body(
    key: &Key,
    nonce: [u8; NONCE],
    session: &Session,
    message: &mut Message<'_>,
    is_reply: bool,
) -> Result<(), Status> {
    let mut place = place(message, Part::Body, session.is_client());
    if is_reply {
        place.uri = b"";
    }
    let sealed = key.seal(nonce, &message.body, place).ok_or_else(too_long)?;
    message.body = sealed.into();
    Ok(())
}

fn seal_envelope(
    message: &mut Message<'_>,
    key: &OldKey,
    dialect: Dialect,
    codecs: &Codecs,
) -> Result<(), Status> {
    let envelope = Dual(Envelope {
        cipherversion: key.version().to_owned(),
        ciphertext: key.seal(&message.body),
        dialect,
    });
    let codec = message.codec;
    let sealed = message.marshal(codecs, codec, &envelope);
    sealed.map_err(|error| {
        let reason = format!("the encrypted body has no form in this codec: {error}");
        Status::of(code::BAD_MESSAGE, dialect).with_reason(reason)
    })
}

fn open_envelope(message: &Message<'_>, key: &OldKey, codecs: &Codecs) -> Option<Vec<u8>> {
    let Dual(envelope) = message.unmarshal::<Dual<Envelope>>(codecs).ok()?;
    key.open(&envelope.cipherversion, envelope.ciphertext.as_bytes())
}

impl Plugin for Secure {
    fn name(&self) -> &str {
        "secure"
    }

    fn hooks(&self) -> Hooks {
        Hooks::PRE_WRITE_CALL
            | Hooks::PRE_WRITE_PUSH
            | Hooks::PRE_WRITE_REPLY
            | Hooks::POST_READ_CALL_HEADER
            | Hooks::POST_READ_PUSH_HEADER
            | Hooks::PRE_READ_CALL_BODY
            | Hooks::PRE_READ_PUSH_BODY
            | Hooks::PRE_READ_REPLY_BODY
    }

    fn pre_write_call(&self, session: &Session, call: &mut Message<'static>) -> Result<(), Status> {
        self.seal(session, call)
    }

    fn pre_write_push(&self, session: &Session, push: &mut Message<'static>) -> Result<(), Status> {
        self.seal(session, push)
    }

    fn pre_write_reply(&self, call: &Incoming<'_>, reply: &mut Message<'_>) -> Result<(), Status> {
        self.seal_reply(call, reply)
    }

    fn post_read_call_header(&self, call: &mut Incoming<'_>) -> Result<(), Status> {
        self.open(call)
    }

    fn post_read_push_header(&self, push: &mut Incoming<'_>) -> Result<(), Status> {
        self.open(push)
    }

    fn pre_read_call_body(&self, call: &mut Incoming<'_>) -> Result<(), Status> {
        self.check_readable(call)
    }

    fn pre_read_push_body(&self, push: &mut Incoming<'_>) -> Result<(), Status> {
        self.check_readable(push)
    }

    fn pre_read_reply_body(
        &self,
        session: &Session,
        reply: &mut Message<'_>,
    ) -> Result<(), Status> {
        self.open_reply(session, reply)
    }
}

/// Prints the way without its key.
impl fmt::Debug for Mode<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Mode::Gcm(_) => "Gcm",
            Mode::Ecb(_) => "Ecb",
        })
    }
}
