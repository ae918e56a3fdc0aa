//! Ciphers and signatures, against openssl and a second implementation in Python.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use epicycle::cluster::client::Client;
use epicycle::cluster::crypto::{
    Agreement, AgreementSide, Cipher, CryptoError, EccCipher, EccSigner, Hash, RsaCipher,
    RsaPadding, RsaSignature, RsaSigner, Signer, generate_ecc, generate_rsa,
};
use epicycle::cluster::node::HandlerError;
use epicycle::cluster::{Cluster, Error};

use crate::util::strangers::python_cryptography;
use crate::util::{noise, skipped};

const HASHES: [(Hash, &str); 5] = [
    (Hash::Sha1, "sha1"),
    (Hash::Sha224, "sha224"),
    (Hash::Sha256, "sha256"),
    (Hash::Sha384, "sha384"),
    (Hash::Sha512, "sha512"),
];

/// Runs openssl with these arguments in a folder. Returns false if there is none.
fn openssl(dir: &Path, args: &str) -> bool {
    let run = Command::new("openssl")
        .args(args.split_whitespace())
        .current_dir(dir)
        .stdin(Stdio::null())
        .output();
    match run {
        Ok(output) => {
            let errors = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "openssl {args}: {errors}");
            true
        }
        Err(_) => {
            skipped("there is no openssl");
            false
        }
    }
}

fn paddings() -> Vec<(RsaPadding, String)> {
    let mut all = vec![(
        RsaPadding::Pkcs1v15,
        "-pkeyopt rsa_padding_mode:pkcs1".to_owned(),
    )];
    for (hash, name) in HASHES {
        let padding = RsaPadding::Oaep {
            hash,
            label: b"la".to_vec(),
        };
        let options = format!(
            "-pkeyopt rsa_padding_mode:oaep -pkeyopt rsa_oaep_md:{name} -pkeyopt rsa_mgf1_md:{name} -pkeyopt rsa_oaep_label:6c61"
        );
        all.push((padding, options));
    }
    all
}

#[test]
fn rsa_is_that_of_openssl_in_every_padding_and_form_of_keys() {
    let folder = tempfile::tempdir().expect("is made");
    let dir = folder.path();
    if !openssl(dir, "genrsa -out pkcs8.pem 2048") {
        return;
    }
    openssl(dir, "rsa -in pkcs8.pem -traditional -out pkcs1.pem");
    openssl(dir, "rsa -in pkcs8.pem -pubout -out public8.pem");
    openssl(dir, "rsa -in pkcs8.pem -RSAPublicKey_out -out public1.pem");
    let path = |name: &str| dir.join(name).to_str().expect("is text").to_owned();
    for (padding, options) in paddings() {
        let cipher = RsaCipher::new(padding);
        let cipher = cipher.encrypt_to(&path("public8.pem")).expect("is a key");
        let cipher = cipher.decrypt_with(&path("pkcs1.pem")).expect("is a key");
        fs::write(dir.join("plain"), "hello").expect("is written");
        openssl(
            dir,
            &format!("pkeyutl -encrypt -pubin -inkey public8.pem -in plain -out theirs {options}"),
        );
        let theirs = fs::read(dir.join("theirs")).expect("is read");
        assert_eq!(
            cipher.decrypt(&theirs).expect("is for us"),
            b"hello",
            "{options}"
        );
        fs::write(
            dir.join("ours"),
            cipher.encrypt(b"hallo").expect("is encrypted"),
        )
        .expect("is written");
        openssl(
            dir,
            &format!("pkeyutl -decrypt -inkey pkcs8.pem -in ours -out read {options}"),
        );
        assert_eq!(
            fs::read(dir.join("read")).expect("is read"),
            b"hallo",
            "{options}"
        );

        // Several blocks, and none.
        for len in [0, 1, 245, 246, 2000] {
            let data = noise(7, len);
            let encrypted = cipher.encrypt(&data).expect("is encrypted");
            assert!(encrypted.len().is_multiple_of(256));
            assert_eq!(cipher.decrypt(&encrypted).expect("is for us"), data);
        }
        assert_eq!(cipher.decrypt(&[0; 255]), Err(CryptoError::Refused));
    }
    let text = fs::read_to_string(dir.join("pkcs8.pem")).expect("is read");
    let public = fs::read_to_string(dir.join("public1.pem")).expect("is read");
    for (form, name) in [
        (RsaSignature::Pss, "pss"),
        (RsaSignature::Pkcs1v15, "pkcs1"),
    ] {
        for (hash, md) in HASHES {
            let signer = RsaSigner::new(form, hash)
                .sign_with(&text)
                .expect("is a key");
            let signer = signer.verify_with(&public).expect("is a key");
            let salt = if name == "pss" {
                "-sigopt rsa_pss_saltlen:digest"
            } else {
                ""
            };
            let options = format!("-{md} -sigopt rsa_padding_mode:{name} {salt}");
            openssl(
                dir,
                &format!("dgst {options} -sign pkcs8.pem -out theirs plain"),
            );
            let theirs = fs::read(dir.join("theirs")).expect("is read");
            assert_eq!(signer.verify(b"hello", &theirs), Ok(true), "{options}");
            assert_eq!(signer.verify(b"hallo", &theirs), Ok(false), "{options}");
            fs::write(dir.join("ours"), signer.sign(b"hello").expect("is signed"))
                .expect("is written");
            openssl(
                dir,
                &format!("dgst {options} -verify public8.pem -signature ours plain"),
            );
        }
    }
}

#[test]
fn keys_that_cannot_be_are_told_with_the_remedy() {
    let (private, public) = generate_ecc();
    let told = |error: CryptoError| error.to_string();
    let rsa = || RsaCipher::new(RsaPadding::default());
    let wrong = rsa().encrypt_to(&public).expect_err("is of a curve");
    assert!(told(wrong).contains("a public RSA key in PEM"));
    let missing = rsa()
        .encrypt_to("/nowhere/key.pem")
        .expect_err("is not there");
    assert!(told(missing).contains("/nowhere/key.pem"));
    let none = EccCipher::new().encrypt(b"x").expect_err("has no key");
    assert!(told(none).contains("EccCipher::encrypt_to"));
    let swapped = EccCipher::new()
        .encrypt_to(&private)
        .expect_err("is private");
    // No message has a secret in it.
    let secret = private.lines().nth(1).expect("has a body");
    assert!(!told(swapped).contains(secret));
    let lines: Vec<_> = private.lines().collect();
    let headless = lines[1..lines.len() - 1].concat();
    let headless = EccCipher::new().decrypt_with(&headless);
    assert!(!told(headless.expect_err("has no first line")).contains(secret));
    assert!(EccSigner::new(Hash::Sha256, "1").is_err());
    assert!(generate_rsa(512).is_err());
}

/// The layout of go-ethereum and the numbers of due, by the package `cryptography`.
const SCRIPT: &str = r#"
import hashlib, hmac, os, sys
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
what, path, rest = sys.argv[1], sys.argv[2], sys.argv[3:]
key = serialization.load_pem_private_key(open(path, 'rb').read(), None)
size = (key.curve.key_size + 7) // 8
digest = {32: 'sha256', 48: 'sha384'}[size]
def derive(secret, s1):
    keys, n = b'', 1
    while len(keys) < size:
        keys += hashlib.new(digest, n.to_bytes(4, 'big') + secret + s1).digest()
        n += 1
    return keys[:size // 2], hashlib.new(digest, keys[size // 2:size]).digest()
if what == 'seal':
    data, s1, s2 = (bytes.fromhex(text) for text in rest)
    once = ec.generate_private_key(key.curve)
    ke, km = derive(once.exchange(ec.ECDH(), key.public_key()), s1)
    iv = os.urandom(16)
    e = Cipher(algorithms.AES(ke), modes.CTR(iv)).encryptor()
    m = iv + e.update(data) + e.finalize()
    point = once.public_key().public_bytes(serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint)
    print((point + m + hmac.new(km, m + s2, digest).digest()).hex())
elif what == 'open':
    data, s1, s2 = (bytes.fromhex(text) for text in rest)
    point, m, tag = data[:1 + 2 * size], data[1 + 2 * size:-size], data[-size:]
    public = ec.EllipticCurvePublicKey.from_encoded_point(key.curve, point)
    ke, km = derive(key.exchange(ec.ECDH(), public), s1)
    assert hmac.compare_digest(tag, hmac.new(km, m + s2, digest).digest())
    d = Cipher(algorithms.AES(ke), modes.CTR(m[:16])).decryptor()
    print((d.update(m[16:]) + d.finalize()).hex())
elif what == 'sign':
    der = key.sign(rest[0].encode(), ec.ECDSA(hashes.SHA256()))
    r, s = utils.decode_dss_signature(der)
    print(f'{r} {s}')
elif what == 'verify':
    r, s = (int(text) for text in rest[1].split(' '))
    key.public_key().verify(utils.encode_dss_signature(r, s), rest[0].encode(), ec.ECDSA(hashes.SHA256()))
    print('right')
"#;

#[test]
fn ecies_and_ecdsa_are_those_of_a_second_implementation() {
    let folder = tempfile::tempdir().expect("is made");
    let dir = folder.path();
    if !openssl(dir, "ecparam -name prime256v1 -genkey -out p256.pem") {
        return;
    }
    openssl(dir, "ecparam -name secp384r1 -genkey -noout -out p384.pem");
    for curve in ["p256", "p384"] {
        openssl(
            dir,
            &format!("ec -in {curve}.pem -pubout -out {curve}.public.pem"),
        );
        openssl(
            dir,
            &format!("pkcs8 -topk8 -nocrypt -in {curve}.pem -out {curve}.8.pem"),
        );
        let path = |name: &str| {
            dir.join(format!("{curve}{name}"))
                .to_str()
                .expect("is text")
                .to_owned()
        };
        let ask = |args: &[&str]| {
            let key = path(".8.pem");
            let mut python = python_cryptography()?;
            python.args(["-c", SCRIPT, args[0], &key]).args(&args[1..]);
            let output = python.output().expect("starts");
            let errors = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{args:?}: {errors}");
            Some(String::from_utf8(output.stdout).expect("is text"))
        };
        let cipher = |private: &str| -> Result<EccCipher, CryptoError> {
            let cipher = EccCipher::new().shared("one", "two");
            cipher
                .encrypt_to(&path(".public.pem"))?
                .decrypt_with(private)
        };
        for form in [".pem", ".8.pem"] {
            let cipher = cipher(&path(form)).expect("are keys");
            let Some(theirs) = ask(&["seal", "68616c6c6f", "6f6e65", "74776f"]) else {
                return;
            };
            let theirs = crate::vectors::unhex(theirs.trim()).expect("is hex");
            assert_eq!(cipher.decrypt(&theirs).expect("is for us"), b"hallo");
            let ours = crate::vectors::hex(&cipher.encrypt(b"hello").expect("is encrypted"));
            assert_eq!(
                ask(&["open", &ours, "6f6e65", "74776f"]).as_deref(),
                Some("68656c6c6f\n")
            );

            let sealed = cipher.encrypt(b"").expect("is encrypted");
            assert_eq!(cipher.decrypt(&sealed).expect("is for us"), b"");
            // Each try costs an operation of the curve.
            for at in (0..theirs.len()).step_by(13) {
                let mut changed = theirs.clone();
                changed[at] ^= 1;
                assert_eq!(
                    cipher.decrypt(&changed),
                    Err(CryptoError::Refused),
                    "byte {at}"
                );
                assert_eq!(
                    cipher.decrypt(&theirs[..at]),
                    Err(CryptoError::Refused),
                    "{at} bytes"
                );
            }

            let signer = EccSigner::new(Hash::Sha256, " ").expect("is right");
            let signer = signer.verify_with(&path(".public.pem")).expect("is a key");
            let signer = signer.sign_with(&path(form)).expect("is a key");
            let theirs = ask(&["sign", "hello"]).expect("is there");
            assert_eq!(signer.verify(b"hello", theirs.trim().as_bytes()), Ok(true));
            assert_eq!(signer.verify(b"hallo", theirs.trim().as_bytes()), Ok(false));
            for wrong in [&b""[..], b"1", b"1 ", b"0 0", b"1 2 3", b"\xff \xff"] {
                assert_eq!(signer.verify(b"hello", wrong), Ok(false));
            }
            let ours =
                String::from_utf8(signer.sign(b"hello").expect("is signed")).expect("is text");
            assert_eq!(ask(&["verify", "hello", &ours]).as_deref(), Some("right\n"));
        }
    }
}

#[test]
fn a_node_decrypts_what_clients_send_and_encrypts_what_they_get() {
    let (node_private, node_public) = generate_ecc();
    let (client_private, client_public) = generate_ecc();
    let at_node = EccCipher::new()
        .encrypt_to(&client_public)
        .expect("is a key");
    let at_node = at_node.decrypt_with(&node_private).expect("is a key");
    let at_client = EccCipher::new().encrypt_to(&node_public).expect("is a key");
    let at_client = at_client.decrypt_with(&client_private).expect("is a key");

    let cluster = Cluster::embedded();
    let (told, tells) = std::sync::mpsc::channel();
    let back = cluster.node().id("back").cipher(at_node.clone());
    let back = back.route(2, move |_, cx| -> Result<(), HandlerError> {
        // It comes from a node, so it is plain.
        told.send((cx.data().to_vec(), cx.parse::<String>()?))?;
        Ok(())
    });
    let _back = back.start().expect("starts");
    let front = cluster.node().id("front").cipher(at_node);
    let front = front.route(1, |_, cx| -> Result<(), HandlerError> {
        let name: String = cx.parse()?;
        cx.deliver(2, 0, &name)?;
        cx.push(7, "pushed")?;
        let later = cx.later();
        later.respond(&format!("hello {name}"))?;
        Ok(())
    });
    let _front = front.start().expect("starts");
    let gate = cluster
        .gate()
        .listen("tcp://127.0.0.1:0")
        .start()
        .expect("starts");
    let (pushed, pushes) = std::sync::mpsc::channel();
    let client = Client::builder().route(7, move |_, packet| {
        let _ = pushed.send(packet.data.to_vec());
    });
    let client = client
        .connect(gate.client_addrs()[0].to_string())
        .expect("connects");
    let asked = at_client.encrypt(b"\"Ada\"").expect("is encrypted");
    let answer = client.request(1, asked).expect("is answered");
    assert_eq!(
        at_client.decrypt(&answer).expect("is for us"),
        b"\"hello Ada\""
    );
    let push = pushes.recv_timeout(crate::util::LONG).expect("comes");
    assert_eq!(at_client.decrypt(&push).expect("is for us"), b"\"pushed\"");
    let (data, name) = tells.recv_timeout(crate::util::LONG).expect("comes");
    assert_eq!((data, name), (b"\"Ada\"".to_vec(), "Ada".to_owned()));
}

#[test]
fn a_handler_is_told_of_data_that_cannot_be_decrypted() {
    let (private, _) = generate_ecc();
    let cluster = Cluster::embedded();
    let node = cluster
        .node()
        .cipher(EccCipher::new().decrypt_with(&private).expect("is a key"));
    let (told, tells) = std::sync::mpsc::channel();
    let node = node.route(1, move |_, cx| -> Result<(), HandlerError> {
        told.send(cx.parse::<String>())?;
        Ok(())
    });
    let _node = node.start().expect("starts");
    let gate = cluster
        .gate()
        .listen("tcp://127.0.0.1:0")
        .start()
        .expect("starts");
    let client = Client::builder()
        .connect(gate.client_addrs()[0].to_string())
        .expect("connects");
    client.push(1, "\"plain\"").expect("is sent");
    let told = tells.recv_timeout(crate::util::LONG).expect("comes");
    let error = told.expect_err("is plain");
    assert!(
        matches!(error, Error::Codec(_)) && error.to_string().contains("not encrypted"),
        "{error}"
    );
}

#[test]
fn a_channel_takes_nothing_that_was_changed_repeated_or_sent_by_itself() {
    let (client, node) = (
        Agreement::start().expect("starts"),
        Agreement::start().expect("starts"),
    );
    let (to_node, to_client) = (*client.public_key(), *node.public_key());
    let mut client = client
        .finish(AgreementSide::Client, &to_client)
        .expect("agrees");
    let mut node = node
        .finish(AgreementSide::Server, &to_node)
        .expect("agrees");
    for len in [0, 1, 5000] {
        let data = noise(1, len);
        let sealed = client.seal(&data).expect("is sealed");
        assert_eq!(sealed.len(), len + 24);
        for at in 0..sealed.len().min(40) {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert_eq!(node.open(&changed), Err(CryptoError::Refused));
            assert_eq!(node.open(&sealed[..at]), Err(CryptoError::Refused));
        }
        assert_eq!(client.open(&sealed), Err(CryptoError::Refused));
        assert_eq!(node.open(&sealed).expect("is right"), data);
        assert_eq!(node.open(&sealed), Err(CryptoError::Refused));
    }
    let (older, newer) = (
        node.seal(b"1").expect("is sealed"),
        node.seal(b"2").expect("is sealed"),
    );
    assert_eq!(client.open(&newer).expect("is right"), b"2");
    assert_eq!(client.open(&older), Err(CryptoError::Refused));

    let third = Agreement::start().expect("starts");
    let mut third = third
        .finish(AgreementSide::Client, &to_client)
        .expect("agrees");
    let sealed = third.seal(b"x").expect("is sealed");
    assert_eq!(node.open(&sealed), Err(CryptoError::Refused));
    let weak = Agreement::start()
        .expect("starts")
        .finish(AgreementSide::Client, &[0; 32]);
    assert!(weak.is_err());
    let short = Agreement::start()
        .expect("starts")
        .finish(AgreementSide::Client, &[1; 31]);
    assert!(short.is_err());
}
