//! A certificate authority for the tests, and its certificates.

use std::sync::{Arc, LazyLock};

use epicycle::tls::{Identity, Roots, TlsClient, TlsServer};
use epicycle::{Listen, Server};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    date_time_ymd,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};

/// A certificate authority.
pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate and its key, in PEM.
#[derive(Clone)]
pub(crate) struct Issued {
    pub(crate) certificate: String,
    pub(crate) key: String,
}

/// The authority that the tests' clients trust.
pub(crate) static TRUSTED: LazyLock<Authority> = LazyLock::new(|| Authority::new("trusted"));

impl Authority {
    pub(crate) fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params
            .distinguished_name
            .push(rcgen::DnType::CommonName, name);
        let key = KeyPair::generate().expect("makes a key");
        Self(CertifiedIssuer::self_signed(params, key).expect("signs itself"))
    }

    pub(crate) fn pem(&self) -> String {
        self.0.pem()
    }

    pub(crate) fn roots(&self) -> Roots {
        Roots::from_pem(self.pem()).expect("is a certificate")
    }

    /// Issues a certificate for these names, valid for servers and clients.
    pub(crate) fn issue(&self, names: &[&str]) -> Issued {
        self.issue_with(names, |_| {})
    }

    pub(crate) fn issue_expired(&self, names: &[&str]) -> Issued {
        self.issue_with(names, |params| {
            params.not_before = date_time_ymd(2000, 1, 1);
            params.not_after = date_time_ymd(2001, 1, 1);
        })
    }

    pub(crate) fn issue_with(
        &self,
        names: &[&str],
        change: impl Fn(&mut CertificateParams),
    ) -> Issued {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let common_name = names[0].clone();
        let mut params = CertificateParams::new(names).expect("are names");
        params
            .distinguished_name
            .push(rcgen::DnType::CommonName, common_name);
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        change(&mut params);
        let key = KeyPair::generate().expect("makes a key");
        Issued {
            certificate: params.signed_by(&key, &self.0).expect("signs").pem(),
            key: key.serialize_pem(),
        }
    }
}

impl Issued {
    pub(crate) fn identity(&self) -> Identity {
        Identity::from_pem(&self.certificate, &self.key).expect("match")
    }

    pub(crate) fn der(&self) -> CertificateDer<'static> {
        CertificateDer::from_pem_slice(self.certificate.as_bytes()).expect("is a certificate")
    }
}

/// Returns the TLS settings of a server for `localhost` and the loopback addresses.
pub(crate) fn server_tls() -> TlsServer {
    let issued = TRUSTED.issue(&["localhost", "127.0.0.1", "::1"]);
    TlsServer::new(issued.identity()).expect("is set up")
}

pub(crate) fn client_tls() -> TlsClient {
    TlsClient::new(&TRUSTED.roots()).expect("is set up")
}

/// Returns a TLS server with one reactor, on a TCP port that the kernel chooses.
pub(crate) fn local(tls: &TlsServer) -> Server {
    Server::bind(Listen::on("tcp://127.0.0.1:0").tls(tls)).reactors(1)
}

/// Returns rustls's configuration of a client that trusts [`TRUSTED`].
pub(crate) fn client_config() -> ClientConfig {
    builder().with_no_client_auth()
}

/// Returns the same configuration with a client certificate.
pub(crate) fn client_config_as(issued: &Issued) -> ClientConfig {
    let key = rustls::pki_types::PrivateKeyDer::from_pem_slice(issued.key.as_bytes());
    builder()
        .with_client_auth_cert(vec![issued.der()], key.expect("is a key"))
        .expect("match")
}

fn builder() -> rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert> {
    let mut roots = RootCertStore::empty();
    let root = CertificateDer::from_pem_slice(TRUSTED.pem().as_bytes());
    roots
        .add(root.expect("is a certificate"))
        .expect("is a root");
    ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("has versions")
        .with_root_certificates(roots)
}
