use super::Gate;
use super::listener::Door;

impl Gate {
    /// Returns what the banner of a process shows of the gate.
    pub(in crate::cluster) fn describe(&self) -> Vec<(&'static str, String)> {
        let shared = &self.shared;
        let mut rows = vec![("ID", self.id().to_owned())];
        rows.extend(shared.registered.describe());
        rows.push(("Link", self.link_addr().to_string()));
        for (addr, door) in self.client_addrs().iter().zip(&shared.doors[1..]) {
            let server = match door {
                #[cfg(feature = "kcp")]
                Door::Kcp(_) => format!("[kcp] {addr}"),
                Door::Sockets(upgrade) => format!("[ws] {addr}{}", upgrade.path),
                _ => format!("[tcp] {addr}"),
            };
            rows.push(("Server", server));
        }
        rows.push(("Locator", shared.locator.kind().to_owned()));
        rows.push(("Transporter", "drpc".to_owned()));
        rows
    }
}
