//! The calls of the admin interface, by method and path.

use percent_encoding::percent_decode_str;

use crate::http::StatusCode;

/// A call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Call {
    Page,
    Config,
    Pools,
    Pool(String),
    Health,
    Connections,
    History,
    Metrics,
    Configure,
    SetNode(NodePath),
    ChangeNode(NodePath),
    RemoveNode(NodePath),
    Reload,
    Drain,
}

/// A node in a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct NodePath {
    pub(super) pool: String,
    pub(super) address: String,
}

/// A request that names no call.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NoCall {
    pub(super) status: StatusCode,
    pub(super) problem: String,
    /// The methods that the path has.
    pub(super) allow: Option<&'static str>,
}

/// The paths, for people.
const PATHS: &str = "there are /, /config, /pools, /pools/NAME, /pools/NAME/nodes/ADDRESS, /health, /connections, /history, \
                     /metrics, /reload and /drain";

impl Call {
    /// Returns the call that a request asks for.
    pub(super) fn of(method: &str, path: &str) -> Result<Self, NoCall> {
        let not_found = || NoCall {
            status: StatusCode::NOT_FOUND,
            problem: format!("nothing is at {path:?}; {PATHS}"),
            allow: None,
        };
        let read = |call| choose(method, &[("GET", call)], "GET, HEAD");
        match path {
            "/" => read(Self::Page),
            "/pools" => read(Self::Pools),
            "/health" => read(Self::Health),
            "/connections" => read(Self::Connections),
            "/history" => read(Self::History),
            "/metrics" => read(Self::Metrics),
            "/config" => {
                let calls = [("GET", Self::Config), ("PUT", Self::Configure)];
                choose(method, &calls, "GET, HEAD, PUT")
            }
            "/reload" => choose(method, &[("POST", Self::Reload)], "POST"),
            "/drain" => choose(method, &[("POST", Self::Drain)], "POST"),
            _ => {
                let rest = path.strip_prefix("/pools/").ok_or_else(not_found)?;
                let (pool, rest) = match rest.split_once('/') {
                    Some((pool, rest)) => (pool, Some(rest)),
                    None => (rest, None),
                };
                let pool = decoded(pool).ok_or_else(not_found)?;
                let Some(rest) = rest else {
                    return read(Self::Pool(pool));
                };
                let address = rest.strip_prefix("nodes/").and_then(decoded);
                let address = address.ok_or_else(not_found)?;
                let node = NodePath { pool, address };
                let calls = [
                    ("PUT", Self::SetNode(node.clone())),
                    ("PATCH", Self::ChangeNode(node.clone())),
                    ("DELETE", Self::RemoveNode(node)),
                ];
                choose(method, &calls, "PUT, PATCH, DELETE")
            }
        }
    }

    /// Returns true if it only tells something.
    pub(super) fn only_reads(&self) -> bool {
        matches!(
            self,
            Self::Page
                | Self::Config
                | Self::Pools
                | Self::Pool(_)
                | Self::Health
                | Self::Connections
                | Self::History
                | Self::Metrics
        )
    }

    /// Returns the most bytes of its body.
    pub(super) fn max_body(&self) -> u64 {
        match self {
            Self::Configure => 8 << 20,
            Self::SetNode(_) | Self::ChangeNode(_) => 64 << 10,
            _ => 0,
        }
    }

    /// Returns true if it needs a body.
    pub(super) fn needs_body(&self) -> bool {
        matches!(self, Self::Configure | Self::ChangeNode(_))
    }
}

fn choose(method: &str, calls: &[(&str, Call)], allow: &'static str) -> Result<Call, NoCall> {
    let wanted = if method == "HEAD" { "GET" } else { method };
    match calls.iter().find(|(method, _)| *method == wanted) {
        Some((_, call)) => Ok(call.clone()),
        None => Err(NoCall {
            status: StatusCode::METHOD_NOT_ALLOWED,
            problem: format!(
                "{} is not possible here; use {allow}",
                method.escape_debug()
            ),
            allow: Some(allow),
        }),
    }
}

/// Returns a part of a path without its escapes.
fn decoded(text: &str) -> Option<String> {
    let text = percent_decode_str(text).decode_utf8().ok()?;
    (!text.is_empty()).then(|| text.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_and_paths_name_calls() {
        let node = |address: &str| NodePath {
            pool: "a b".to_owned(),
            address: address.to_owned(),
        };
        for (method, path, wanted) in [
            ("GET", "/", Call::Page),
            ("HEAD", "/pools", Call::Pools),
            ("PUT", "/config", Call::Configure),
            ("GET", "/pools/api", Call::Pool("api".to_owned())),
            (
                "PATCH",
                "/pools/a%20b/nodes/http%3A%2F%2Fx%3A1",
                Call::ChangeNode(node("http://x:1")),
            ),
            (
                "PUT",
                "/pools/a%20b/nodes/http://x:1",
                Call::SetNode(node("http://x:1")),
            ),
            (
                "DELETE",
                "/pools/a%20b/nodes/x:1",
                Call::RemoveNode(node("x:1")),
            ),
            ("POST", "/drain", Call::Drain),
        ] {
            assert_eq!(Call::of(method, path), Ok(wanted), "{method} {path}");
        }
    }

    #[test]
    fn others_are_refused_with_what_is_possible() {
        for (method, path, status, allow) in [
            ("GET", "/pool", 404, None),
            ("GET", "/pools/", 404, None),
            ("GET", "/pools/a/", 404, None),
            ("GET", "/pools/a/nodes", 404, None),
            ("GET", "/pools/a/nodes/", 404, None),
            ("GET", "/pools/%ff", 404, None),
            ("GET", "*", 404, None),
            ("POST", "/pools", 405, Some("GET, HEAD")),
            ("GET", "/reload", 405, Some("POST")),
            ("get", "/pools", 405, Some("GET, HEAD")),
            ("GET", "/pools/a/nodes/b", 405, Some("PUT, PATCH, DELETE")),
        ] {
            let refused = Call::of(method, path).expect_err(path);
            assert_eq!(
                (refused.status.as_u16(), refused.allow),
                (status, allow),
                "{method} {path}"
            );
        }
    }
}
