//! Templates for the lines of a log.

/// A piece of a template.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::gateway) enum Piece {
    Text(String),
    Field(Field),
}

/// Defines the fields of templates.
macro_rules! fields {
    ($($field:ident $name:literal,)+) => {
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(in crate::gateway) enum Field {
            $($field,)+
        }

        const FIELDS: &[(&str, Field)] = &[$(($name, Field::$field),)+];
    };
}

fields! {
    Time "time",
    Client "client",
    Peer "peer",
    User "user",
    Method "method",
    Host "host",
    Target "target",
    Status "status",
    BytesIn "bytes_in",
    BytesOut "bytes_out",
    Route "route",
    Pool "pool",
    Node "node",
    QueueMs "queue_ms",
    ConnectMs "connect_ms",
    FirstByteMs "first_byte_ms",
    TotalMs "total_ms",
    Reused "reused",
    Tries "tries",
    EndedBy "ended_by",
    Timeout "timeout",
    Referer "referer",
    UserAgent "user_agent",
}

/// Returns `Err` with the remedy if a text is no template.
pub(super) fn is_template(text: &str) -> Result<(), String> {
    let mut names = String::new();
    for (name, _) in FIELDS {
        names.push_str(if names.is_empty() { "{" } else { ", {" });
        names.push_str(name);
        names.push('}');
    }
    let pieces = pieces(text);
    if !pieces.iter().any(|piece| matches!(piece, Piece::Field(_))) {
        return Err(format!(
            "use \"json\", \"combined\", or a text with fields in braces: {names}"
        ));
    }
    let unknown = pieces.iter().find_map(|piece| match piece {
        Piece::Text(text) => text.find('{').map(|at| &text[at..]),
        Piece::Field(_) => None,
    });
    match unknown {
        Some(rest) => {
            let end = rest.find('}').map_or(rest.len(), |end| end + 1);
            Err(format!("{} is no field; there are {names}", &rest[..end]))
        }
        None if text.contains(char::is_control) => {
            Err("a line has no control characters; remove them".to_owned())
        }
        None => Ok(()),
    }
}

/// Takes a template apart. What is no field remains text.
pub(in crate::gateway) fn pieces(template: &str) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let mut text = String::new();
    let mut rest = template;
    while let Some(at) = rest.find('{') {
        text.push_str(&rest[..at]);
        rest = &rest[at..];
        let field = rest.find('}').and_then(|end| {
            let name = &rest[1..end];
            let found = FIELDS.iter().find(|(known, _)| *known == name)?;
            Some((end + 1, found.1))
        });
        match field {
            Some((len, field)) => {
                if !text.is_empty() {
                    pieces.push(Piece::Text(std::mem::take(&mut text)));
                }
                pieces.push(Piece::Field(field));
                rest = &rest[len..];
            }
            None => {
                text.push('{');
                rest = &rest[1..];
            }
        }
    }
    text.push_str(rest);
    if !text.is_empty() {
        pieces.push(Piece::Text(text));
    }
    pieces
}
