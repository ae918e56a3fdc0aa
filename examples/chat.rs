//! A chat room over lines of text. Try `nc 127.0.0.1 9000` from several terminals.
//!
//! Clients are on different reactors, that is, on different threads. `Engine::broadcast` sends a message to the clients of
//! all reactors. The handlers share the set of used names behind a lock.

mod util;

use std::collections::HashSet;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use clap::Parser;
use epicycle::codec::Lines;
use epicycle::{Action, CloseReason, Closed, Conn, ConnInfo, Engine, EventHandler, Reactor};

/// A chat room over lines of text
#[derive(Parser)]
struct Flags {
    #[command(flatten)]
    listen: util::Listen,
}

const MAX_LINE: usize = 1024;
const MAX_NAME: usize = 20;

/// The names in use.
type Names = Arc<Mutex<HashSet<String>>>;

struct Chat {
    names: Names,
    /// Set on boot. Reaches all reactors.
    engine: Option<Engine<Self>>,
}

impl Chat {
    /// Sends a text to all clients of all reactors.
    fn tell_all(&self, text: String) {
        if let Some(engine) = &self.engine
            && let Err(error) = engine.broadcast(text)
        {
            log::warn!("some clients have missed a message: {error}");
        }
    }

    /// Reserves a name for a client. Fails if the name is not valid or already in use.
    fn take_name(&self, name: &str) -> Result<String, &'static str> {
        if name.is_empty() || name.chars().count() > MAX_NAME {
            return Err("a name has 1 to 20 letters; yours?");
        }
        if !lock(&self.names).insert(name.to_owned()) {
            return Err("somebody has that name; another?");
        }
        Ok(name.to_owned())
    }
}

/// Locks the names. A panic cannot leave them inconsistent, so a poisoned lock is fine.
fn lock(names: &Names) -> MutexGuard<'_, HashSet<String>> {
    names.lock().unwrap_or_else(PoisonError::into_inner)
}

impl EventHandler for Chat {
    type Codec = Lines;
    /// The client's name, once it has one.
    type Session = Option<String>;

    fn codec(&mut self, _: &ConnInfo<'_>) -> Lines {
        Lines::with_max(MAX_LINE)
    }

    fn on_boot(&mut self, reactor: &mut Reactor<'_, Self>) {
        self.engine = Some(reactor.engine().clone());
    }

    fn on_open(&mut self, conn: &mut Conn<'_, Self>) -> Option<Option<String>> {
        conn.send("welcome; your name?").is_ok().then_some(None)
    }

    fn react(
        &mut self,
        conn: &mut Conn<'_, Self>,
        name: &mut Option<String>,
        line: &[u8],
    ) -> Action {
        // Control characters could change the terminals of other clients.
        let line = String::from_utf8_lossy(line).replace(char::is_control, "");
        match name {
            Some(name) => self.tell_all(format!("{name}: {line}\n")),
            None => match self.take_name(line.trim()) {
                Ok(taken) => {
                    self.tell_all(format!("* {taken} has joined\n"));
                    *name = Some(taken);
                }
                Err(problem) => return conn.send(problem).into(),
            },
        }
        Action::Continue
    }

    fn on_close(
        &mut self,
        _: &mut Reactor<'_, Self>,
        _info: &Closed,
        name: Option<String>,
        _reason: CloseReason,
    ) {
        if let Some(name) = name {
            lock(&self.names).remove(&name);
            self.tell_all(format!("* {name} has left\n"));
        }
    }

    fn on_shutdown(&mut self, reactor: &mut Reactor<'_, Self>) {
        reactor.broadcast("* the room closes\n");
    }
}

fn main() -> ExitCode {
    let flags = Flags::parse();
    let names = Names::default();
    let make = move |_reactor| Chat {
        names: names.clone(),
        engine: None,
    };
    util::run("chat", flags.listen.server(), make)
}
