//! Routes whose case does not count, as with Teleport's `ignorecase` plugin.
//!
//! ```
//! use epicycle::rpc::plugins::ignore_case::IgnoreCase;
//! use epicycle::rpc::{Peer, Router};
//!
//! let mut routes = Router::new();
//! routes.call("/math/add", |_ctx, numbers: Vec<i64>| Ok(numbers.iter().sum::<i64>()));
//! let server = Peer::builder().listen("tcp://127.0.0.1:0").routes(routes).plugin(IgnoreCase).start()?;
//!
//! let client = Peer::builder().start()?;
//! let session = client.dial(&server.local_addrs()[0])?;
//! assert_eq!(session.call("/MATH/Add", &[1, 2]).wait(), Ok(3));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

use crate::rpc::context::Incoming;
use crate::rpc::plugin::{Hooks, Plugin};
use crate::rpc::wire::Status;

/// Turns the path of each CALL and PUSH into lower case before its route is looked up. So the routes must be in lower case. Only
/// ASCII letters change.
#[derive(Clone, Copy, Debug, Default)]
pub struct IgnoreCase;

impl Plugin for IgnoreCase {
    fn name(&self) -> &str {
        "ignore-case"
    }

    fn hooks(&self) -> Hooks {
        Hooks::POST_READ_CALL_HEADER | Hooks::POST_READ_PUSH_HEADER
    }

    fn post_read_call_header(&self, call: &mut Incoming<'_>) -> Result<(), Status> {
        lower_path(call);
        Ok(())
    }

    fn post_read_push_header(&self, push: &mut Incoming<'_>) -> Result<(), Status> {
        lower_path(push);
        Ok(())
    }
}

/// The characters that would not be read as a part of the path.
const ESCAPED: &AsciiSet = &CONTROLS.add(b'%').add(b'?').add(b'#').add(b':');

fn lower_path(message: &mut Incoming<'_>) {
    let message = message.message_mut();
    let Ok(uri) = message.parse_uri() else {
        // It is refused when its route is looked up.
        return;
    };
    if !uri.path().bytes().any(|byte| byte.is_ascii_uppercase()) {
        return;
    }
    let path = uri.path().to_ascii_lowercase();
    let (slash, rest) = match path.strip_prefix("//") {
        // Two slashes would be read as the beginning of a host's name.
        Some(rest) => ("/%2F", rest),
        None => ("", &*path),
    };
    let mut lower = format!("{slash}{}", utf8_percent_encode(rest, ESCAPED)).into_bytes();
    if !uri.query().is_empty() {
        lower.push(b'?');
        lower.extend_from_slice(uri.query());
    }
    message.uri = lower.into();
}
