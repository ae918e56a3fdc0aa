//! The calls, carried out: what is asked for becomes a call of the gateway, and its result an answer.

use serde::Serialize;
use serde_json::{Value, json};

use super::call::Call;
use super::{IF_MATCH, Operate};
use crate::error::Error;
use crate::gateway::config::{ConfigError, Fault};
use crate::gateway::error::GatewayError;
use crate::gateway::reply::Reply;
use crate::gateway::settings::Problem;
use crate::gateway::status::Reloaded;
use crate::http::{ServerRequest, StatusCode};
use crate::metrics::CONTENT_TYPE;

/// The page, with a place for the nonce.
const PAGE: &str = include_str!("page.html");

/// The place in the page where the nonce goes.
const NONCE: &str = "{{nonce}}";

/// Tells people for how long a change that was made here lasts.
const NODE_NOTE: &str =
    "the file is not changed; this lasts until a reload finds other nodes of this pool there";
const CONFIG_NOTE: &str = "the file is not changed; the next reload puts it in force again";

/// A request, with as much of its body as has come.
pub(super) struct Asked {
    call: Call,
    peer: String,
    method: String,
    path: String,
    /// True for JSON, false for TOML. `None` if the body has no type.
    is_json: Option<bool>,
    if_match: Option<String>,
    body: Vec<u8>,
}

impl Asked {
    /// Returns the request, or the answer to one whose body is not acceptable.
    pub(super) fn new(
        call: Call,
        request: &ServerRequest<'_>,
        peer: String,
    ) -> Result<Self, Reply> {
        // The first one would count, and nobody knows whether it is the one that is meant.
        if request.headers().get_all("content-type").nth(1).is_some() {
            let text = "Content-Type is there twice; send it once";
            return Err(problem(StatusCode::BAD_REQUEST, text));
        }
        let is_json = match request.header("content-type") {
            None => None,
            Some(text) => {
                let media_type = text.split(';').next().unwrap_or_default().trim();
                match media_type.to_ascii_lowercase().as_str() {
                    "application/json" => Some(true),
                    "application/toml" => Some(false),
                    _ => return Err(unsupported()),
                }
            }
        };
        let needs_type = request.has_body() && call.max_body() > 0;
        if needs_type && is_json.is_none() {
            return Err(unsupported());
        }
        if request
            .content_length()
            .is_some_and(|length| length > call.max_body())
        {
            return Err(too_large());
        }
        if call.needs_body() && !request.has_body() {
            let status = StatusCode::BAD_REQUEST;
            return Err(problem(
                status,
                "a body is needed, JSON or TOML; docs/gateway.md has examples",
            ));
        }
        Ok(Self {
            call,
            peer,
            method: request.method().to_owned(),
            path: request.path().escape_debug().to_string(),
            is_json,
            if_match: request.header("if-match").map(str::to_owned),
            body: Vec::new(),
        })
    }

    /// Takes a part of the body. Returns false if it is too large.
    pub(super) fn take(&mut self, bytes: &[u8]) -> bool {
        let is_small = (self.body.len() + bytes.len()) as u64 <= self.call.max_body();
        if is_small {
            self.body.extend_from_slice(bytes);
        }
        is_small
    }
}

/// Carries out a call.
pub(super) fn carry_out(gateway: &dyn Operate, asked: &Asked) -> Reply {
    let result = act(gateway, asked);
    let reply = result.unwrap_or_else(|error| refusal(&error));
    if !asked.call.only_reads() {
        let Asked {
            peer, method, path, ..
        } = asked;
        let status = reply.status.as_u16();
        log::info!(target: "epicycle::gateway::admin", "{peer}: {method} {path}: {status}");
    }
    reply
}

fn act(gateway: &dyn Operate, asked: &Asked) -> Result<Reply, GatewayError> {
    let is_json = asked.is_json.unwrap_or(true);
    let Ok(body) = std::str::from_utf8(&asked.body) else {
        let status = StatusCode::BAD_REQUEST;
        return Ok(problem(status, "the body is no text; send UTF-8"));
    };
    let ok = StatusCode::OK;
    Ok(match &asked.call {
        Call::Page => page(),
        Call::Config => {
            let (generation, config) = gateway.config();
            let mut reply = json_reply(ok, config);
            add(&mut reply, "ETag", &format!("\"{generation}\""));
            reply
        }
        Call::Pools => json_of(ok, &json!({"pools": gateway.pools()})),
        Call::Pool(name) => match gateway.pool(name) {
            Some(pool) => json_of(ok, &pool),
            None => problem(StatusCode::NOT_FOUND, &format!("there is no pool {name:?}")),
        },
        Call::Health => {
            let health = gateway.health();
            let status = match health.status {
                "draining" => StatusCode::SERVICE_UNAVAILABLE,
                _ => ok,
            };
            json_of(status, &health)
        }
        Call::Connections => json_of(ok, &gateway.connections()),
        Call::History => json_of(ok, &json!({"changes": gateway.history()})),
        Call::Metrics => with_type(ok, CONTENT_TYPE, gateway.metrics()),
        Call::Configure => {
            let Ok(expected) = expected(asked.if_match.as_deref()) else {
                let remedy = "send the ETag of GET /config, or leave the field out";
                return Ok(problem(StatusCode::PRECONDITION_FAILED, remedy));
            };
            changed(
                &gateway.configure(body, is_json, expected)?,
                Some(CONFIG_NOTE),
            )
        }
        Call::SetNode(node) => {
            let is_new = gateway.set_node(&node.pool, &node.address, body, is_json)?;
            let status = if is_new { StatusCode::CREATED } else { ok };
            json_of(
                status,
                &json!({"pool": node.pool, "node": node.address, "note": NODE_NOTE}),
            )
        }
        Call::ChangeNode(node) => {
            let now = gateway.change_node(&node.pool, &node.address, body, is_json)?;
            let now = json!({
                "pool": node.pool, "node": now.to, "weight": now.weight, "backup": now.backup, "state": now.state,
                "note": NODE_NOTE,
            });
            json_of(ok, &now)
        }
        Call::RemoveNode(node) => {
            let removed = gateway.remove_node(&node.pool, &node.address)?;
            json_of(
                ok,
                &json!({"pool": node.pool, "removed": removed, "note": NODE_NOTE}),
            )
        }
        Call::Reload => changed(&gateway.reload()?, None),
        Call::Drain => {
            gateway.drain();
            let note = "health checks fail from now on; after drain.grace the gateway stops accepting, and then ends";
            json_of(
                StatusCode::ACCEPTED,
                &json!({"status": "draining", "note": note}),
            )
        }
    })
}

/// Returns the configuration that must be in force.
fn expected(if_match: Option<&str>) -> Result<Option<u64>, ()> {
    match if_match.map(str::trim) {
        None | Some("*") => Ok(None),
        Some(tag) => {
            let number = tag.strip_prefix('"').and_then(|tag| tag.strip_suffix('"'));
            let number = number.and_then(|number| number.parse().ok());
            number.map(Some).ok_or(())
        }
    }
}

fn changed(reloaded: &Reloaded, note: Option<&str>) -> Reply {
    let mut json = serde_json::to_value(reloaded).unwrap_or_default();
    if let (Some(note), Value::Object(fields)) = (note, &mut json) {
        fields.insert("note".to_owned(), note.into());
    }
    let mut reply = json_of(StatusCode::OK, &json);
    add(&mut reply, "ETag", &format!("\"{}\"", reloaded.generation));
    reply
}

/// Returns the answer to a call that the gateway refuses.
fn refusal(error: &GatewayError) -> Reply {
    let is_syntax = |fault: &Fault| fault.problem.starts_with("this is no ");
    let status = match error {
        GatewayError::NotFound(_) => StatusCode::NOT_FOUND,
        GatewayError::Conflict(problem) if problem.place == IF_MATCH => {
            StatusCode::PRECONDITION_FAILED
        }
        GatewayError::Config(ConfigError::Read { source, .. })
            if source.kind() == std::io::ErrorKind::FileTooLarge =>
        {
            StatusCode::PAYLOAD_TOO_LARGE
        }
        GatewayError::Config(ConfigError::Faults(faults)) if faults.iter().any(is_syntax) => {
            StatusCode::BAD_REQUEST
        }
        GatewayError::Config(_) | GatewayError::Settings(_) => StatusCode::UNPROCESSABLE_ENTITY,
        GatewayError::Start(Error::Stopped) => StatusCode::SERVICE_UNAVAILABLE,
        // An address is taken, or a file cannot be opened.
        _ => StatusCode::CONFLICT,
    };
    let problems: Vec<Value> = match error {
        GatewayError::Config(ConfigError::Faults(faults)) => faults.iter().map(fault).collect(),
        GatewayError::Settings(problems) => problems.iter().map(placed).collect(),
        GatewayError::NotFound(problem) | GatewayError::Conflict(problem) => vec![placed(problem)],
        other => vec![json!({"problem": other.to_string()})],
    };
    let text = match error {
        GatewayError::Config(ConfigError::Faults(_)) | GatewayError::Settings(_) => {
            format!("nothing has changed: {} problem(s)", problems.len())
        }
        other => other.to_string(),
    };
    json_of(status, &json!({"error": text, "problems": problems}))
}

fn fault(fault: &Fault) -> Value {
    let file = fault.file.display().to_string();
    match fault.line {
        0 => json!({"file": file, "problem": fault.problem}),
        line => {
            let column = fault.column;
            json!({"file": file, "line": line, "column": column, "problem": fault.problem})
        }
    }
}

fn placed(problem: &Problem) -> Value {
    json!({"place": problem.place, "problem": problem.problem})
}

/// Returns the answer to a request that is refused.
pub(super) fn problem(status: StatusCode, text: &str) -> Reply {
    json_of(status, &json!({"error": text}))
}

pub(super) fn too_large() -> Reply {
    let text =
        "the body is too large: a configuration has at most 8 MiB, a node 64 KiB, and others none";
    problem(StatusCode::PAYLOAD_TOO_LARGE, text)
}

fn unsupported() -> Reply {
    let text = "use Content-Type: application/json or application/toml";
    problem(StatusCode::UNSUPPORTED_MEDIA_TYPE, text)
}

fn json_of(status: StatusCode, value: &impl Serialize) -> Reply {
    json_reply(status, serde_json::to_string(value).unwrap_or_default())
}

fn json_reply(status: StatusCode, json: String) -> Reply {
    with_type(status, "application/json", json + "\n")
}

fn with_type(status: StatusCode, content_type: &str, body: String) -> Reply {
    let mut reply = Reply::new(status);
    for (name, value) in [
        ("Content-Type", content_type),
        ("Cache-Control", "no-store"),
        ("X-Content-Type-Options", "nosniff"),
        ("Cross-Origin-Resource-Policy", "same-origin"),
    ] {
        add(&mut reply, name, value);
    }
    reply.body = body.into();
    reply
}

/// Returns the page. Only its own script and style have the nonce, so a browser runs no other.
fn page() -> Reply {
    let nonce: String = (0..2)
        .map(|_| format!("{:016x}", rand::random::<u64>()))
        .collect();
    let body = PAGE.replace(NONCE, &nonce);
    let mut reply = with_type(StatusCode::OK, "text/html; charset=utf-8", body);
    let policy = format!(
        "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; img-src data:; connect-src 'self'; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
    );
    for (name, value) in [
        ("Content-Security-Policy", &*policy),
        ("X-Frame-Options", "DENY"),
        ("Referrer-Policy", "no-referrer"),
        ("Cross-Origin-Opener-Policy", "same-origin"),
    ] {
        add(&mut reply, name, value);
    }
    reply
}

/// Adds a field, which is well-formed.
pub(super) fn add(reply: &mut Reply, name: &str, value: &str) {
    let _ = reply.fields.push(name, value);
}
