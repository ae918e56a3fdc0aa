//! The timers of plugins.

use std::time::Duration;

use super::{Line, PeerHandler, Stage};
use crate::engine::handler::Conn;
use crate::rpc::plugin::guarded;

/// The time until a timer that is due before the session opens is looked at again.
const NOT_OPEN: Duration = Duration::from_secs(1);

impl PeerHandler {
    /// Sets the timer of the plugin with this name.
    pub(super) fn set_timer(
        &self,
        conn: &mut Conn<'_, Self>,
        line: &mut Line,
        plugin: &str,
        after: Duration,
    ) {
        let Some(place) = self.parts.plugins.names().position(|name| name == plugin) else {
            log::debug!(target: "epicycle::rpc", "a timer for no plugin of the peer: {plugin:?}");
            return;
        };
        let timers = line.timers.get_or_insert_default();
        timers.set(place, conn.now(), after);
        line.set_alarm(conn);
    }

    /// Calls the plugins whose timers are due. An error of one closes the connection.
    pub(super) fn run_timers(&self, conn: &mut Conn<'_, Self>, line: &mut Line) {
        let now = conn.now();
        while let Some(timers) = &mut line.timers
            && let Some(place) = timers.take_due(now)
        {
            if line.stage != Stage::Open {
                timers.set(place, now, NOT_OPEN);
                continue;
            }
            let Some(plugin) = self.parts.plugins.get(place) else {
                continue;
            };
            let quiet = conn.quiet_for();
            match guarded(plugin, || plugin.on_timer(&line.session, quiet)) {
                Ok(Some(after)) => timers.set(place, now, after),
                Ok(None) => {}
                Err(status) => {
                    log::info!(target: "epicycle::rpc", "{}: closing: {status}", conn.peer_addr());
                    line.is_lost = true;
                    return conn.abort();
                }
            }
        }
    }
}
