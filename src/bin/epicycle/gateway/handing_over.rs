//! A new process that takes over the listeners.
//!
//! The old process listens at a control socket of its own and starts this program again, with the path of that socket in the
//! environment. The new process asks for the listeners there.

use std::error::Error;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::Duration;
use std::{env, io, process, thread};

use epicycle::gateway::{Control as GatewayControl, NoHooks};
use epicycle::handover::{Control, Predecessor, Successor, Successors};

use super::serving::Event;

/// The variable with the path of the control socket.
const VARIABLE: &str = "EPICYCLE_HANDOVER";

/// The time for the new process to start.
const PATIENCE: Duration = Duration::from_secs(30);

/// The process that hands over to this one.
pub(super) struct Old {
    pub(super) process: Predecessor,
    pub(super) sockets: Vec<OwnedFd>,
}

/// Returns the process that hands over to this one, if there is one.
pub(super) fn predecessor() -> Result<Option<Old>, Box<dyn Error>> {
    let Some(path) = env::var_os(VARIABLE) else {
        return Ok(None);
    };
    let path = PathBuf::from(path);
    let gone = || format!("nobody hands over at {}", path.display());
    let mut process = Control::at(&path)
        .deadline(PATIENCE)
        .predecessor()?
        .ok_or_else(gone)?;
    let sockets = process.receive()?;
    Ok(Some(Old { process, sockets }))
}

/// Starts a new process, and sends an event once it serves or has failed.
pub(super) fn begin(
    gateway: &GatewayControl<NoHooks>,
    events: Sender<Event>,
) -> Result<(), Box<dyn Error>> {
    let path = env::temp_dir().join(format!("epicycle-{}.sock", process::id()));
    let successors = Arc::new(Control::at(&path).deadline(PATIENCE).listen()?);
    let mut child = Command::new(env::current_exe()?)
        .args(env::args_os().skip(1))
        .env(VARIABLE, &path)
        .spawn()?;
    let (waits, gateway) = (successors.clone(), gateway.clone());
    thread::spawn(move || {
        let event = match hand_over(&waits, &gateway) {
            Ok(successor) => Event::Replaced(successor),
            Err(error) => Event::NotReplaced(error.to_string()),
        };
        waits.close();
        let _ = events.send(event);
    });
    thread::spawn(move || {
        // It ends at once if it cannot start. Then nobody else will come.
        let _ = child.wait();
        successors.close();
    });
    Ok(())
}

fn hand_over(successors: &Successors, gateway: &GatewayControl<NoHooks>) -> io::Result<Successor> {
    let Some(successor) = successors.accept()? else {
        return Err(io::Error::other("the new process has ended"));
    };
    successor.hand_over(&gateway.listeners()?)
}
