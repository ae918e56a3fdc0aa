//! The places where orders for sessions go.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::engine::slots::ConnId;

thread_local! {
    /// The connection of a session that redials whose plugins run, with its token.
    static SETTING_UP: Cell<Option<(u64, ConnId)>> = const { Cell::new(None) };
}

/// The place where orders for a session go.
#[derive(Clone)]
pub(super) enum Place {
    /// The session has ended.
    Nowhere,
    Conn(ConnId),
    /// A session that redials has several connections, one after the other.
    Home(Arc<Home>),
}

/// The reactor of a session that redials.
pub(in crate::rpc) struct Home {
    pub(super) reactor: usize,
    /// The token of the session's connections.
    pub(super) token: u64,
    /// The number of pushes that wait for a connection.
    pub(super) pushes: AtomicUsize,
}

/// The most pushes that wait for a connection. Each holds its message.
pub(in crate::rpc) const MAX_HELD_PUSHES: usize = 1024;

/// The addressee of an order.
#[derive(Clone, Copy)]
pub(in crate::rpc) enum Address {
    Conn(ConnId),
    /// The session that redials with this token, on whatever connection it has.
    Home(u64),
}

impl Address {
    /// Returns the connection that is being set up, if a plugin of its session gives the order: the plugin's messages cannot
    /// wait until the session is open.
    pub(super) fn of_plugin(self) -> Self {
        if let Address::Home(token) = self
            && let Some((own, conn)) = SETTING_UP.get()
            && token == own
        {
            return Address::Conn(conn);
        }
        self
    }
}

/// Marks, as long as it exists, that the plugins of a session run that redials.
pub(in crate::rpc) struct SettingUp(());

pub(in crate::rpc) fn begin_setting_up(token: u64, conn: ConnId) -> SettingUp {
    SETTING_UP.set(Some((token, conn)));
    SettingUp(())
}

impl Drop for SettingUp {
    fn drop(&mut self) {
        SETTING_UP.set(None);
    }
}

impl Home {
    pub(in crate::rpc) fn reactor(&self) -> usize {
        self.reactor
    }

    pub(in crate::rpc) fn token(&self) -> u64 {
        self.token
    }

    pub(in crate::rpc) fn held_pushes(&self) -> usize {
        self.pushes.load(Ordering::Relaxed)
    }

    pub(in crate::rpc) fn add_push(&self) {
        self.pushes.fetch_add(1, Ordering::Relaxed);
    }

    pub(in crate::rpc) fn remove_push(&self) {
        self.pushes.fetch_sub(1, Ordering::Relaxed);
    }
}
