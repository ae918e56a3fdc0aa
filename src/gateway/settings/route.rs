use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;

use super::{Access, LimitSettings, MirrorSettings, PoolRule, RouteAuth};

/// The requests that go to a pool, and the changes to them.
///
/// Of the routes that fit a request, the most specific one is taken: an exact host, then the longest `*.suffix`, then
/// any host; of these an exact path, then the longest prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RouteSettings {
    /// The name in logs and metrics. Default: the host and the path.
    pub name: Option<String>,
    /// The host, without its port: `app.example.org`, or `*.example.org` for the names below it. `None`, the default, is any.
    pub host: Option<String>,
    /// The path: an exact one, or a prefix that ends in `*`. `None`, the default, is any.
    pub path: Option<String>,
    /// The name of the pool. Empty if there is a [`split`](Self::split).
    pub pool: String,
    /// The pools that share the requests, by their weights: at most 10,000 in total. A pool of weight 0 gets only requests that
    /// `when` or `sticky` send there. Default: none, and all go to `pool`.
    pub split: BTreeMap<String, u32>,
    /// The name of a cookie that keeps a client at its pool. Its value is the pool's name. The gateway sets it (`HttpOnly`,
    /// `SameSite=Lax`, `Path=/`, with TLS `Secure`) with the answer to a request that has none, or one with another value.
    /// Default: none.
    pub sticky: Option<String>,
    /// Rules that choose another pool, before cookie and weights. The first one that fits counts. Default: none.
    pub when: Vec<PoolRule>,
    /// The clients that may come, by their addresses, of those that the listener lets in. Default: all.
    pub access: Access,
    /// The names and passwords of clients. Default: those of the listener.
    pub auth: RouteAuth,
    /// The rates of requests, beside those of the listener. Default: no limit.
    pub rate_limits: Vec<LimitSettings>,
    /// The copy of requests to another pool. Default: none.
    pub mirror: Option<MirrorSettings>,
    /// A beginning of the path that is removed. Default: none.
    pub strip_prefix: Option<String>,
    /// A beginning that the path gets, joined by exactly one slash. Default: none.
    pub add_prefix: Option<String>,
    /// A path that replaces that of the request. The query stays. Default: none.
    pub rewrite: Option<String>,
    /// The `Host` that the node gets. Default: the client's.
    pub host_field: HostField,
    /// The changes to the fields of requests.
    pub request: FieldChanges,
    /// The changes to the fields of responses.
    pub response: FieldChanges,
    /// The bytes of a request's body. More are answered with 413. `None`, the default: the listener's limit alone.
    pub max_body: Option<u64>,
    /// The bytes of a request's body for which the gateway waits before it takes a connection to a node. A body that is
    /// longer is streamed. Each exchange holds so much at most. Default: 0.
    pub buffer_request: usize,
    /// The time for which parts of a response wait for others, so that the client gets them together, up to 32 KiB. 0, the
    /// default, passes each part on at once. Event streams, and bodies whose length is not known, are always passed on at once.
    pub flush_interval: Duration,
    /// The level at which responses are compressed with gzip, from 1, the fastest, to 9, for clients that take it: texts of more
    /// than 1 KiB, or of unknown length. A body that is being compressed takes about 400 KiB, and a reactor compresses 256 of them at
    /// a time; others are passed on as they are. `None`, the default, compresses nothing.
    pub compress: Option<u8>,
    /// The protocols to which a client may change. Default: `websocket`. `h2c` is never passed on.
    pub upgrade: Vec<String>,
    /// The treatment of WebSocket connections. Default: as tunnels.
    pub websocket: WebSocketMode,
    /// The bodies of errors of the gateway, by status. Default: a line of plain text.
    pub error_pages: BTreeMap<u16, ErrorPage>,
}

/// The body of an error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ErrorPage {
    /// The `Content-Type`.
    pub content_type: String,
    /// The body.
    pub body: Bytes,
}

/// The `Host` that a node gets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum HostField {
    /// That of the client's request.
    #[default]
    Keep,
    /// The host of the node's address, with its port unless that is 80, or 443 with TLS.
    Node,
    /// This one.
    Name(String),
}

/// The treatment of WebSocket connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum WebSocketMode {
    /// Bytes are passed on unseen, in the kernel where it can.
    #[default]
    Tunnel,
    /// The gateway sees where frames begin and end. So when it ends, or the other side is gone, or `tunnel_idle` is over, it says so
    /// to both sides with a Close (1001). A side that sends what is no frame gets a Close with 1002. Frames are passed on as they
    /// are, with their extensions. Bytes go through the process. It needs the cargo feature `ws`.
    Frames,
}

/// Changes to the fields of a message. They are made in this order: remove, set, add.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct FieldChanges {
    /// The names of fields that are removed.
    pub remove: Vec<String>,
    /// Fields that replace all of their name.
    pub set: Vec<(String, String)>,
    /// Fields that are added to others of their name.
    pub add: Vec<(String, String)>,
}

impl FieldChanges {
    /// Returns true if nothing is changed.
    pub fn is_empty(&self) -> bool {
        self.remove.is_empty() && self.set.is_empty() && self.add.is_empty()
    }
}

impl RouteSettings {
    /// Returns a route for all requests, to a pool.
    pub fn to(pool: impl Into<String>) -> Self {
        Self {
            name: None,
            host: None,
            path: None,
            pool: pool.into(),
            split: BTreeMap::new(),
            sticky: None,
            when: Vec::new(),
            access: Access::default(),
            auth: RouteAuth::default(),
            rate_limits: Vec::new(),
            mirror: None,
            strip_prefix: None,
            add_prefix: None,
            rewrite: None,
            host_field: HostField::default(),
            request: FieldChanges::default(),
            response: FieldChanges::default(),
            max_body: None,
            buffer_request: 0,
            flush_interval: Duration::ZERO,
            compress: None,
            upgrade: vec!["websocket".to_owned()],
            websocket: WebSocketMode::default(),
            error_pages: BTreeMap::new(),
        }
    }

    /// Returns a route for all requests, to several pools by weight.
    pub fn split<N: Into<String>>(pools: impl IntoIterator<Item = (N, u32)>) -> Self {
        let pools = pools.into_iter();
        Self {
            split: pools.map(|(name, weight)| (name.into(), weight)).collect(),
            ..Self::to("")
        }
    }

    /// Sets the host.
    #[must_use]
    pub fn host(mut self, host: impl Into<String>) -> Self {
        self.host = Some(host.into());
        self
    }

    /// Sets the path.
    #[must_use]
    pub fn path(mut self, path: impl Into<String>) -> Self {
        self.path = Some(path.into());
        self
    }

    /// Returns the name in logs and metrics.
    pub fn display_name(&self) -> String {
        let host = self.host.as_deref().unwrap_or("*");
        let path = self.path.as_deref().unwrap_or("/*");
        self.name.clone().unwrap_or_else(|| format!("{host}{path}"))
    }
}
