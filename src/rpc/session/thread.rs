//! The part that a thread has in a peer: it runs a reactor, a blocking handler, or neither.

use std::cell::Cell;
use std::sync::Arc;

use super::shared::Shared;
use crate::engine::reactor_thread;

thread_local! {
    /// The reactor whose callback runs on this thread: its peer, by its address, and its number.
    static CURRENT: Cell<Option<(usize, usize)>> = const { Cell::new(None) };
    /// The peer whose blocking handler runs on this thread, by its address.
    static WORKS_FOR: Cell<usize> = const { Cell::new(0) };
}

/// Marks this thread as a reactor's as long as it exists.
pub(in crate::rpc) struct Entered(Option<(usize, usize)>);

pub(in crate::rpc) fn enter(peer: &Arc<Shared>, reactor: usize) -> Entered {
    let this = Some((Arc::as_ptr(peer) as usize, reactor));
    Entered(CURRENT.replace(this))
}

impl Drop for Entered {
    fn drop(&mut self) {
        CURRENT.set(self.0);
    }
}

/// Returns true if this thread runs a reactor, of any engine. Callbacks also run, and values are also dropped, outside of a
/// peer's handler.
pub(in crate::rpc) fn is_on_loop() -> bool {
    reactor_thread::is_current()
}

/// Runs a blocking handler of a peer on this thread, a worker's.
pub(in crate::rpc) fn work_for(peer: &Arc<Shared>, job: impl FnOnce()) {
    /// Ends the mark, also if the job panics.
    struct Worked(usize);
    impl Drop for Worked {
        fn drop(&mut self) {
            WORKS_FOR.set(self.0);
        }
    }
    let _worked = Worked(WORKS_FOR.replace(Arc::as_ptr(peer) as usize));
    job();
}

/// Returns true if this thread cannot wait for the end of a peer: it runs a reactor, or a handler that the peer waits for.
pub(in crate::rpc) fn is_waited_for_by(peer: &Arc<Shared>) -> bool {
    is_on_loop() || WORKS_FOR.get() == Arc::as_ptr(peer) as usize
}

pub(super) fn is_loop_of(peer: &Arc<Shared>, reactor: usize) -> bool {
    CURRENT.get() == Some((Arc::as_ptr(peer) as usize, reactor))
}
