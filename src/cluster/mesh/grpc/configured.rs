use super::GrpcTransporter;
use crate::cluster::Error;
use crate::cluster::config::Config;
use crate::tls::{Roots, TlsClient, TlsError};

impl GrpcTransporter {
    /// Sets what a configuration has for gRPC: `transport.grpc`. Call it before the methods that shall have precedence.
    ///
    /// A server listens at every interface if the configuration says no host, and its mesh needs
    /// [`expose`](crate::cluster::mesh::MeshBuilder::expose) then.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`] if a certificate cannot be used.
    pub fn config(mut self, config: &Config) -> Result<Self, Error> {
        let grpc = &config.grpc;
        if let Some(addr) = &grpc.addr {
            self = self.listen(format!("tcp://{addr}"));
        }
        if let Some(tls) = config.tls_server("transport.grpc.server", &grpc.certificate)? {
            self = self.tls(&tls);
        }
        if let Some(file) = &grpc.authorities {
            let trusting = || -> Result<TlsClient, TlsError> {
                let tls = TlsClient::new(&Roots::from_pem_file(file)?)?;
                match &grpc.server_name {
                    Some(name) => tls.server_name(name),
                    None => Ok(tls),
                }
            };
            let tls = trusting().map_err(|error| {
                config.fault("transport.grpc.client.caFile", &error.to_string())
            })?;
            self = self.tls_client(&tls);
        }
        Ok(self)
    }
}
