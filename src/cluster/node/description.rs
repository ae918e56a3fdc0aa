use super::Node;

impl Node {
    /// Returns what the banner of a process shows of the node.
    pub(in crate::cluster) fn describe(&self) -> Vec<(&'static str, String)> {
        let mut rows = vec![("ID", self.id().to_owned())];
        rows.extend(self.shared.registered.describe());
        rows.push(("Link", self.link_addr().to_string()));
        rows.push(("Codec", self.shared.options.codec.name().to_owned()));
        #[cfg(feature = "crypto")]
        if let Some(cipher) = &self.shared.options.cipher {
            rows.push(("Encryptor", cipher.name().to_owned()));
        }
        rows.push(("Transporter", "drpc".to_owned()));
        rows
    }
}
