//! The calls of the interface, by method and path.

use std::fmt;

use serde::Deserialize;

use super::answer::Answer;
use crate::cluster::State;
use crate::http::{NoRoute, Router, ServerRequest, StatusCode};

/// A call.
#[derive(Debug)]
pub(super) enum Call {
    Health,
    Ready,
    Instances,
    SetState { id: String, state: State },
    User(i64),
    Kick { uid: i64, force: bool },
    Broadcast(Broadcast),
    Metrics,
}

impl fmt::Display for Call {
    /// Tells what is done and to whom, for the log. The data of a broadcast may be private.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Call::SetState { id, state } => write!(f, "the state of {id:?} is {state}"),
            Call::Kick { uid, force: false } => write!(f, "the user {uid} is kicked"),
            Call::Kick { uid, force: true } => write!(f, "the user {uid} is kicked by force"),
            Call::Broadcast(Broadcast { route, to, .. }) => {
                write!(f, "a broadcast of route {route} to {to:?}")
            }
            Call::User(uid) => write!(f, "where the user {uid} is"),
            Call::Health | Call::Ready | Call::Instances | Call::Metrics => {
                f.write_str("what there is")
            }
        }
    }
}

/// The body of a broadcast.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Broadcast {
    pub(super) route: i32,
    #[serde(default)]
    pub(super) to: Receivers,
    /// The data that the clients get, as JSON.
    #[serde(default)]
    pub(super) data: serde_json::Value,
}

/// The receivers of a broadcast.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Receivers {
    /// All clients with a user.
    #[default]
    Users,
    /// All clients.
    Connections,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewState {
    state: State,
}

/// The name of a call.
#[derive(Clone, Copy)]
pub(super) enum Name {
    Health,
    Ready,
    Instances,
    SetState,
    User,
    Kick,
    Broadcast,
    Metrics,
}

const ROUTES: [(&str, &str, Name); 8] = [
    ("GET", "/healthz", Name::Health),
    ("GET", "/readyz", Name::Ready),
    ("GET", "/instances", Name::Instances),
    ("PUT", "/instances/{id}/state", Name::SetState),
    ("GET", "/users/{uid}", Name::User),
    ("POST", "/users/{uid}/kick", Name::Kick),
    ("POST", "/broadcast", Name::Broadcast),
    ("GET", "/metrics", Name::Metrics),
];

/// Returns the routes of the interface.
pub(super) fn routes() -> Router<Name> {
    let mut router = Router::new();
    for (method, path, name) in ROUTES {
        let added = router.add(method, path, name);
        debug_assert!(added.is_ok(), "{path}");
    }
    router
}

impl Name {
    /// Returns true for what a probe without a token may ask. It tells nothing secret.
    pub(super) fn is_open(self) -> bool {
        matches!(self, Name::Health | Name::Ready)
    }
}

impl Call {
    /// Reads a call.
    pub(super) fn of(routes: &Router<Name>, request: &ServerRequest<'_>) -> Result<Self, Answer> {
        let found = routes.find(request.method(), request.path());
        let found = found.map_err(|none| no_route(&none))?;
        let param = |name| {
            let value = found.params.decoded(name);
            value.map(std::borrow::Cow::into_owned).unwrap_or_default()
        };
        let uid = || {
            let uid = param("uid").parse::<i64>().ok().filter(|uid| *uid > 0);
            uid.ok_or_else(|| bad("the user's id is a number above 0".to_owned()))
        };
        Ok(match found.value {
            Name::Health => Call::Health,
            Name::Ready => Call::Ready,
            Name::Instances => Call::Instances,
            Name::Metrics => Call::Metrics,
            Name::User => Call::User(uid()?),
            Name::Kick => {
                let query = request.query().unwrap_or_default();
                let force = query.split('&').any(|pair| pair == "force=true");
                Call::Kick { uid: uid()?, force }
            }
            Name::Broadcast => Call::Broadcast(body(request)?),
            Name::SetState => {
                let NewState { state } = body(request)?;
                let id = param("id");
                Call::SetState { id, state }
            }
        })
    }
}

fn body<'r, T: Deserialize<'r>>(request: &ServerRequest<'r>) -> Result<T, Answer> {
    serde_json::from_slice(request.body()).map_err(|error| bad(format!("the body: {error}")))
}

fn bad(problem: String) -> Answer {
    Answer::problem(StatusCode::BAD_REQUEST, &problem)
}

fn no_route(none: &NoRoute) -> Answer {
    match none {
        NoRoute::NotFound => {
            let paths: Vec<_> = ROUTES.iter().map(|(_, path, _)| *path).collect();
            let problem = format!("nothing is here; there are {}", paths.join(", "));
            Answer::problem(StatusCode::NOT_FOUND, &problem)
        }
        NoRoute::MethodNotAllowed { allow } => {
            let problem = format!("this path has {allow}");
            let mut answer = Answer::problem(StatusCode::METHOD_NOT_ALLOWED, &problem);
            answer.allow = Some(allow.clone());
            answer
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_data_of_a_broadcast_is_not_told_to_the_log() {
        let body = br#"{"route":5,"to":"connections","data":{"code":"secret"}}"#;
        let broadcast = serde_json::from_slice(body).expect("is sound");
        let text = Call::Broadcast(broadcast).to_string();
        assert_eq!(text, "a broadcast of route 5 to Connections");
    }
}
