//! A client's side of a session that watches the children of a node. It has no sockets and no clock: it is given frames, and returns
//! frames.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::mem;

use super::jute::{self, Connected, Event, Malformed, Reply, Session};
use crate::gateway::config;
use crate::gateway::discover::MAX_NODES;
use crate::gateway::settings::{ChildForm, NodeSettings, Secret};

/// The most bytes of a child's data that may name a node.
const MAX_DATA: usize = 4096;

/// A session, and what is known of the node.
#[derive(Debug)]
pub(super) struct Watcher {
    path: String,
    form: ChildForm,
    auth: Option<Secret>,
    uses_tls: bool,
    /// The timeout to ask for, in milliseconds.
    timeout: i32,
    session: Session,
    last_zxid: i64,
    is_connected: bool,
    last_xid: i32,
    /// The requests without a reply, in the order in which the replies must come.
    asked: VecDeque<(i32, Asked)>,
    /// Pings without a reply.
    pings: u32,
    /// The last data of each child.
    known: BTreeMap<String, Known>,
    reading: Option<Reading>,
    /// True if a read is needed that has not begun.
    wants_read: bool,
}

/// A node that a child names, or the reason why it names none.
type Child = Result<NodeSettings, String>;

#[derive(Debug)]
struct Known {
    child: Child,
    /// False once the watch of the data has fired.
    is_fresh: bool,
}

#[derive(Debug)]
enum Asked {
    Children,
    Data(String),
    Exists,
    Close,
}

/// A read under way.
#[derive(Debug)]
enum Reading {
    /// The names of the children are asked for. Data may still come that an earlier read has asked for.
    Names,
    /// The data of so many of them is.
    Data { names: Vec<String>, left: usize },
}

/// The meaning of a frame.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Told {
    /// The session goes on, or a new one begins. It has this timeout in milliseconds.
    Session { timeout: i32, is_new: bool },
    /// The server does not know the session any more. It closes the connection.
    Expired,
    /// The nodes that the children name, and the children that name none, with the reason of the first.
    List {
        nodes: Vec<NodeSettings>,
        skipped: usize,
        first_skipped: Option<String>,
    },
    /// There is no list for now.
    NoList(NoList),
}

/// The reason why there is no list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum NoList {
    /// The node does not exist. It is watched.
    NoNode(String),
    /// The session may not read it.
    NoAuth(String),
    TooMany(usize),
    /// The server has another error.
    Other(i32),
}

impl fmt::Display for NoList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NoList::NoNode(path) => write!(f, "ZooKeeper has no node {path:?}"),
            NoList::NoAuth(path) => write!(f, "ZooKeeper does not let this client read {path:?}"),
            NoList::TooMany(count) => {
                write!(f, "the node has {count} children, more than {MAX_NODES}")
            }
            NoList::Other(code) => write!(f, "ZooKeeper answers with the error {code}"),
        }
    }
}

/// Frames to send.
pub(super) type Frames = Vec<Vec<u8>>;

impl Watcher {
    pub(super) fn new(
        path: String,
        form: ChildForm,
        auth: Option<Secret>,
        uses_tls: bool,
        timeout: i32,
    ) -> Self {
        Self {
            path,
            form,
            auth,
            uses_tls,
            timeout,
            session: Session::default(),
            last_zxid: 0,
            is_connected: false,
            last_xid: 0,
            asked: VecDeque::new(),
            pings: 0,
            known: BTreeMap::new(),
            reading: None,
            wants_read: false,
        }
    }

    /// Begins on a new connection. The server sends no replies and no events of the old one any more.
    pub(super) fn begin(&mut self) -> Vec<u8> {
        self.is_connected = false;
        self.asked.clear();
        self.pings = 0;
        self.known.clear();
        self.reading = None;
        self.wants_read = false;
        jute::connect(&self.session, self.last_zxid, self.timeout)
    }

    /// Takes a frame of the server.
    ///
    /// # Errors
    ///
    /// [`Malformed`] if the server does not speak the protocol. The connection must be closed.
    pub(super) fn on_frame(
        &mut self,
        frame: &[u8],
        out: &mut Frames,
    ) -> Result<Option<Told>, Malformed> {
        if !self.is_connected {
            return self.on_connected(&Connected::parse(frame)?, out).map(Some);
        }
        let reply = Reply::parse(frame)?;
        match reply.xid {
            jute::EVENT_XID => {
                self.on_event(&Event::parse(reply.body)?);
                return Ok(None);
            }
            jute::PING_XID => {
                let pings = self.pings.checked_sub(1);
                self.pings = pings.ok_or(Malformed("a reply to no ping"))?;
                return Ok(None);
            }
            jute::AUTH_XID => {
                return match reply.error {
                    0 => Ok(None),
                    jute::AUTH_FAILED => Err(Malformed("a refusal of the name and password")),
                    _ => Err(Malformed("an error for the name and password")),
                };
            }
            _ => {}
        }
        if self.asked.front().is_none_or(|(xid, _)| *xid != reply.xid) {
            return Err(Malformed("a reply to another request"));
        }
        let Some((_, asked)) = self.asked.pop_front() else {
            return Ok(None);
        };
        self.last_zxid = self.last_zxid.max(reply.zxid);
        match asked {
            Asked::Children => self.on_children(reply, out),
            Asked::Data(name) => self.on_data(name, reply),
            Asked::Exists => {
                // It came to be meanwhile.
                self.wants_read |= reply.error == 0;
                Ok(None)
            }
            Asked::Close => Ok(None),
        }
    }

    fn on_connected(&mut self, connected: &Connected, out: &mut Frames) -> Result<Told, Malformed> {
        if connected.timeout <= 0 {
            if self.session.id == 0 {
                return Err(Malformed("a refusal of a new session"));
            }
            self.session = Session::default();
            self.last_zxid = 0;
            return Ok(Told::Expired);
        }
        if connected.session.id == 0 {
            return Err(Malformed("a session without a number"));
        }
        let is_new = connected.session.id != self.session.id;
        self.is_connected = true;
        self.session = connected.session.clone();
        if let Some(auth) = &self.auth {
            out.push(jute::digest_auth(auth.reveal()));
        }
        self.read(out);
        Ok(Told::Session {
            timeout: connected.timeout,
            is_new,
        })
    }

    fn on_event(&mut self, event: &Event<'_>) {
        if event.path == self.path {
            self.wants_read |= matches!(
                event.kind,
                Event::CREATED | Event::DELETED | Event::CHILDREN_CHANGED
            );
            return;
        }
        let child = event.path.strip_prefix(&*self.path);
        let name = child.and_then(|rest| rest.strip_prefix('/'));
        if matches!(event.kind, Event::DELETED | Event::DATA_CHANGED)
            && let Some(known) = name.and_then(|name| self.known.get_mut(name))
        {
            // Until its data is read again, the old one counts.
            known.is_fresh = false;
            self.wants_read = true;
        }
    }

    /// Returns true if a read is needed and none is under way.
    pub(super) fn wants_read(&self) -> bool {
        self.is_connected && self.wants_read && self.reading.is_none()
    }

    /// Asks for a read later.
    pub(super) fn want_read(&mut self) {
        self.wants_read = true;
    }

    /// Begins a read.
    pub(super) fn read(&mut self, out: &mut Frames) {
        self.wants_read = false;
        let xid = self.next_xid(Asked::Children);
        out.push(jute::get_children(xid, &self.path));
        self.reading = Some(Reading::Names);
    }

    fn next_xid(&mut self, asked: Asked) -> i32 {
        // Numbers below 1 have other meanings.
        self.last_xid = self.last_xid.checked_add(1).unwrap_or(1);
        self.asked.push_back((self.last_xid, asked));
        self.last_xid
    }

    /// Returns a ping, if the session is open.
    pub(super) fn ping(&mut self) -> Option<Vec<u8>> {
        self.is_connected.then(|| {
            self.pings += 1;
            jute::ping()
        })
    }

    /// Returns the request that ends the session.
    pub(super) fn close(&mut self) -> Option<Vec<u8>> {
        let is_open = mem::replace(&mut self.is_connected, false);
        is_open.then(|| {
            let xid = self.next_xid(Asked::Close);
            jute::close(xid)
        })
    }

    fn on_children(
        &mut self,
        mut reply: Reply<'_>,
        out: &mut Frames,
    ) -> Result<Option<Told>, Malformed> {
        self.reading = None;
        match reply.error {
            0 => {}
            jute::NO_NODE => {
                let xid = self.next_xid(Asked::Exists);
                out.push(jute::exists(xid, &self.path));
                return Ok(Some(Told::NoList(NoList::NoNode(self.path.clone()))));
            }
            error => return Ok(Some(Told::NoList(self.no_list(error)))),
        }
        let names = match reply.body.texts(MAX_NODES)? {
            Ok(names) => names,
            Err(count) => return Ok(Some(Told::NoList(NoList::TooMany(count)))),
        };
        let mut names: Vec<_> = names.into_iter().map(str::to_owned).collect();
        names.sort_unstable();
        names.dedup();
        if self.form == ChildForm::Name {
            let children = names.iter().map(|name| self.child(name));
            return Ok(Some(list(children)));
        }
        self.known
            .retain(|name, _| names.binary_search(name).is_ok());
        let mut left = 0;
        for name in &names {
            if self.known.get(name).is_none_or(|known| !known.is_fresh) {
                left += 1;
                let xid = self.next_xid(Asked::Data(name.clone()));
                out.push(jute::get_data(xid, &format!("{}/{name}", self.path)));
            }
        }
        self.reading = Some(Reading::Data { names, left });
        Ok(self.end_of_read())
    }

    fn on_data(&mut self, name: String, mut reply: Reply<'_>) -> Result<Option<Told>, Malformed> {
        match reply.error {
            0 => {
                let data = reply.body.buffer()?.unwrap_or_default();
                let child = match std::str::from_utf8(data) {
                    Ok(text) if text.len() <= MAX_DATA => self.child(text.trim()),
                    _ => Err("its data is no text of at most 4 KiB".to_owned()),
                };
                let child = child.map_err(|why| format!("{name:?}: {why}"));
                let is_fresh = true;
                self.known.insert(name, Known { child, is_fresh });
            }
            // It has gone since the names were read, which the watch tells as well.
            jute::NO_NODE => {
                self.known.remove(&name);
            }
            error => {
                let ended = self
                    .reading
                    .take_if(|reading| matches!(reading, Reading::Data { .. }));
                return Ok(ended.map(|_| Told::NoList(self.no_list(error))));
            }
        }
        if let Some(Reading::Data { left, .. }) = &mut self.reading {
            *left -= 1;
        }
        Ok(self.end_of_read())
    }

    fn no_list(&self, error: i32) -> NoList {
        match error {
            jute::NO_AUTH => NoList::NoAuth(self.path.clone()),
            other => NoList::Other(other),
        }
    }

    /// Returns the list if all its data is there.
    fn end_of_read(&mut self) -> Option<Told> {
        let has_all = |reading: &mut Reading| matches!(reading, Reading::Data { left: 0, .. });
        let Some(Reading::Data { names, .. }) = self.reading.take_if(has_all) else {
            return None;
        };
        let known = names.iter().filter_map(|name| self.known.get(name));
        Some(list(known.map(|known| known.child.clone())))
    }

    /// Reads `ip:port,weight`.
    fn child(&self, text: &str) -> Child {
        if text.contains("unix:") {
            return Err(format!(
                "{text:?}: a node elsewhere has no Unix socket here"
            ));
        }
        config::node_of(text, self.uses_tls).map_err(|problem| format!("{text:?}: {problem}"))
    }
}

/// Returns the list of the nodes that children name, each once.
fn list(children: impl Iterator<Item = Child>) -> Told {
    let (mut skipped, mut first_skipped) = (0, None);
    let mut nodes = BTreeMap::<String, NodeSettings>::new();
    for child in children {
        match child {
            Ok(node) => {
                nodes.entry(node.to.clone()).or_insert(node);
            }
            Err(why) => {
                skipped += 1;
                first_skipped.get_or_insert(why);
            }
        }
    }
    Told::List {
        nodes: nodes.into_values().collect(),
        skipped,
        first_skipped,
    }
}
