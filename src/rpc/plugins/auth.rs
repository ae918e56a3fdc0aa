//! Authentication, as Teleport's `auth` plugin does it: the first message of a connection is a CALL to `/auth/verify`.
//!
//! A session opens only if the answer is yes. If it is no, the answer is sent and the connection closes.
//!
//! ```
//! use epicycle::rpc::plugins::auth::{Bearer, Verify};
//! use epicycle::rpc::{Peer, Status, code};
//!
//! let server = Peer::builder()
//!     .listen("tcp://127.0.0.1:0")
//!     .plugin(Verify::new(|token, _session| match token {
//!         "secret" => Ok(()),
//!         _ => Err(Status::new(403, "auth fail")),
//!     }))
//!     .start()?;
//!
//! let client = Peer::builder().plugin(Bearer::new("secret")).start()?;
//! client.dial(&server.local_addrs()[0])?;
//!
//! let stranger = Peer::builder().plugin(Bearer::new("guessed")).start()?;
//! assert_eq!(stranger.dial(&server.local_addrs()[0]).unwrap_err().code, 403);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::borrow::Cow;
use std::fmt;

use crate::rpc::plugin::{Hooks, Next, Plugin, guarded};
use crate::rpc::reply::local;
use crate::rpc::session::Session;
use crate::rpc::wire::{Codec, Kind, Message, Status, code};

const URI: &str = "/auth/verify";

/// Lets only those sessions open whose peers present valid information: the plugin of the side that accepts.
///
/// The other side has 10 seconds, and each of its messages may have at most 4 KiB.
pub struct Verify {
    check: Check,
}

type Check = Box<dyn Fn(&str, &Session) -> Result<(), Status> + Send + Sync>;

impl Verify {
    /// `check` gets the information and the session, which is not open yet. Its error is the answer. It runs on the reactor
    /// and must not block.
    pub fn new(
        check: impl Fn(&str, &Session) -> Result<(), Status> + Send + Sync + 'static,
    ) -> Self {
        Self {
            check: Box::new(check),
        }
    }

    fn verify(&self, session: &Session, message: &Message<'_>) -> Result<(), Status> {
        let uri = String::from_utf8_lossy(&message.uri);
        if message.kind != Kind::Call || uri != URI {
            return Err(unexpected("CALL /auth/verify", message.kind, &uri));
        }
        let info = match message.codec {
            // Programs that know JSON only, such as those in browsers, send it as such.
            Codec::JSON => serde_json::from_slice(&message.body).ok(),
            _ => std::str::from_utf8(&message.body).ok().map(str::to_owned),
        };
        let reason = "the information is not a text";
        let info = info.ok_or_else(|| local(code::BAD_MESSAGE, reason))?;
        // A panic is an answer too.
        guarded(self, || (self.check)(&info, session))
    }
}

impl Plugin for Verify {
    fn name(&self) -> &str {
        "auth-verify"
    }

    fn hooks(&self) -> Hooks {
        Hooks::POST_ACCEPT
    }

    fn post_accept(&self, _session: &Session) -> Result<Next, Status> {
        Ok(Next::Await)
    }

    fn early(&self, session: &Session, message: &Message<'_>) -> Result<Next, Status> {
        let verified = self.verify(session, message);
        if message.kind == Kind::Call {
            let mut reply = Message::new(Kind::Reply);
            reply.seq = Cow::Owned(message.seq.to_vec());
            reply.uri = URI.as_bytes().into();
            if let Err(status) = &verified {
                reply.set_status(status, u16::MAX.into());
            }
            reply.codec = Codec::JSON;
            session.write(reply)?;
        }
        verified.map(|()| Next::Go)
    }
}

/// Presents information to a peer that [verifies](Verify) it: the plugin of the side that dials.
pub struct Bearer {
    info: Box<dyn Fn(&Session) -> String + Send + Sync>,
}

impl Bearer {
    /// Presents the same information to all peers.
    pub fn new(info: impl Into<String>) -> Self {
        let info = info.into();
        Self::with(move |_| info.clone())
    }

    /// Presents information that is made for each session. `info` runs on the reactor and must not block.
    pub fn with(info: impl Fn(&Session) -> String + Send + Sync + 'static) -> Self {
        Self {
            info: Box::new(info),
        }
    }
}

impl Plugin for Bearer {
    fn name(&self) -> &str {
        "auth-bearer"
    }

    fn hooks(&self) -> Hooks {
        Hooks::POST_DIAL
    }

    fn post_dial(&self, session: &Session) -> Result<Next, Status> {
        let mut call = Message::call(URI);
        call.codec = Codec::PLAIN;
        call.body = (self.info)(session).into_bytes().into();
        session.write(call)?;
        Ok(Next::Await)
    }

    fn early(&self, _session: &Session, message: &Message<'_>) -> Result<Next, Status> {
        if message.kind != Kind::Reply {
            let uri = String::from_utf8_lossy(&message.uri);
            return Err(unexpected("REPLY /auth/verify", message.kind, &uri));
        }
        match message.status() {
            Some(status) if status.code == code::NOT_FOUND && status.reason.is_empty() => {
                let reason = "the other side has no route /auth/verify: it does not authenticate";
                Err(status.with_reason(reason))
            }
            Some(status) => Err(status),
            None => Ok(Next::Go),
        }
    }
}

/// Returns the status for another first message, in Teleport's words.
fn unexpected(wanted: &str, kind: Kind, uri: &str) -> Status {
    let reason = format!("the 1th package want: {wanted}, but have: {kind} {uri}");
    local(code::UNAUTHORIZED, reason)
}

impl fmt::Debug for Verify {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Verify")
    }
}

impl fmt::Debug for Bearer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Bearer")
    }
}
