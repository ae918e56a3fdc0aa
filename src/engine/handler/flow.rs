//! Backpressure for handlers that send much.

use super::{Conn, EventHandler};

impl<H: EventHandler> Conn<'_, H> {
    /// Returns true if a handler with much to send may continue: at most the [high-water
    /// mark](crate::Server::high_water) waits to be sent, and at most a quarter of
    /// [`max_queued_files`](crate::Server::max_queued_files). After it has returned false,
    /// [`on_drain`](EventHandler::on_drain) is called when there is room, unless the connection ends first.
    ///
    /// ```
    /// use epicycle::codec::Raw;
    /// use epicycle::{Action, Conn, ConnInfo, EventHandler, Server};
    ///
    /// /// Sends each client as many zeros as it asks for, a number in one byte of MiB.
    /// struct Zeros;
    ///
    /// impl Zeros {
    ///     fn pump(conn: &mut Conn<'_, Self>, left: &mut usize) -> Action {
    ///         while *left > 0 && conn.has_room() {
    ///             let now = (*left).min(64 << 10);
    ///             if conn.write(&vec![0; now]).is_err() {
    ///                 return Action::Close;
    ///             }
    ///             *left -= now;
    ///         }
    ///         Action::Continue
    ///     }
    /// }
    ///
    /// impl EventHandler for Zeros {
    ///     type Codec = Raw;
    ///     type Session = usize;
    ///
    ///     fn codec(&mut self, _: &ConnInfo<'_>) -> Raw {
    ///         Raw
    ///     }
    ///
    ///     fn on_open(&mut self, _conn: &mut Conn<'_, Self>) -> Option<usize> {
    ///         Some(0)
    ///     }
    ///
    ///     fn react(&mut self, conn: &mut Conn<'_, Self>, left: &mut usize, wishes: &[u8]) -> Action {
    ///         *left += wishes.iter().map(|mib| usize::from(*mib) << 20).sum::<usize>();
    ///         Self::pump(conn, left)
    ///     }
    ///
    ///     fn on_drain(&mut self, conn: &mut Conn<'_, Self>, left: &mut usize) -> Action {
    ///         Self::pump(conn, left)
    ///     }
    /// }
    /// # use std::io::{Read, Write};
    /// # let running = Server::bind("tcp://127.0.0.1:0").start(|_reactor| Zeros)?;
    /// # let mut peer = std::net::TcpStream::connect(running.local_addrs()[0].as_socket_addr().unwrap()).unwrap();
    /// # peer.write_all(&[3]).unwrap();
    /// # let mut zeros = vec![1; 3 << 20];
    /// # peer.read_exact(&mut zeros).unwrap();
    /// # assert!(zeros.iter().all(|zero| *zero == 0));
    /// # Ok::<(), epicycle::Error>(())
    /// ```
    pub fn has_room(&mut self) -> bool {
        let out = &self.link.state.out;
        let waiting = out.len();
        if !self.limits().is_high(waiting, out.files()) {
            return true;
        }
        if self.link.state.takes_writes() {
            // If the next flush sends everything, it would not see that the mark was crossed.
            self.link.state.set_congested();
            self.cx.lists.mark_dirty(&mut self.link.state);
        }
        false
    }
}
