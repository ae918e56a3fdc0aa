use super::MeshBuilder;
use crate::cluster::config::Config;

impl MeshBuilder {
    /// Sets what a configuration has for meshes: `cluster.mesh`. Call it before the methods that shall have precedence.
    ///
    /// The mesh listens at every interface if the configuration says no host, and needs [`expose`](Self::expose) then.
    pub fn config(mut self, config: &Config) -> Self {
        let mesh = &config.mesh;
        self.own.configure(mesh);
        if let Some(addr) = &mesh.addr {
            self = self.listen(format!("tcp://{addr}"));
        }
        if let Some(weight) = mesh.weight {
            self = self.weight(weight);
        }
        for (key, value) in &mesh.metadata {
            self = self.metadata(key, value);
        }
        self
    }
}
