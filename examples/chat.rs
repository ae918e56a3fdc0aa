//! A chat room over lines of text. Try `nc 127.0.0.1 9000` from several terminals.
//!
//! Clients live on different reactors, that is, threads. What one says reaches them all through
//! `Engine::broadcast`, and the names in use stand behind a lock that the handlers share.

mod util;

use std::collections::HashSet;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use clap::Parser;
use epicycle::codec::Lines;
use epicycle::{Action, CloseReason, Closed, Conn, Engine, EventHandler, Reactor};

/// A chat room.
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
    /// The way to all reactors, from boot on.
    engine: Option<Engine<Self>>,
}

impl Chat {
    /// Says something to everybody on every reactor.
    fn tell_all(&self, text: String) {
        if let Some(engine) = &self.engine
            && let Err(error) = engine.broadcast(text)
        {
            log::warn!("some have missed a message: {error}");
        }
    }

    /// Takes the name for a client, unless it is no name or somebody has it.
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

/// Nothing is left half done under this lock, so a panic elsewhere does not spoil it.
fn lock(names: &Names) -> MutexGuard<'_, HashSet<String>> {
    names.lock().unwrap_or_else(PoisonError::into_inner)
}

impl EventHandler for Chat {
    type Codec = Lines;
    /// The client's name, once it has one.
    type Session = Option<String>;

    fn codec(&mut self) -> Lines {
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
        // Nobody gets to move the others' cursors.
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

    fn on_close(&mut self, _info: &Closed, name: Option<String>, _reason: CloseReason) {
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
