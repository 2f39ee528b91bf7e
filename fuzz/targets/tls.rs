//! The server's side of TLS. What a stranger says instead of a handshake: in one piece and in pieces it comes to the same. And
//! what a client may do to records behind one that was made with rustls: up to the first that is tampered with all that
//! was written arrives, and nothing after it.
#![no_main]

use std::sync::{Arc, LazyLock};

use libfuzzer_sys::fuzz_target;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::ring;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, Error, SignatureScheme};
use trunkline::base::bytes::{Bytes, BytesMut};
use trunkline::layer::tls::certificates::Served;
use trunkline::layer::tls::{ClientCertificates, HANDSHAKE_BYTES_MAX, TlsMaker, TlsOptions, TlsVersion};
use trunkline::layer::{Fault, Layer, LayerMaker as _, LayerStep, OpenedBytes};

/// A record of the longest kind, and room that has just doubled.
const STORED_MAX: usize = 4 * (16 * 1024 + 2048);

static SERVER: LazyLock<TlsMaker> = LazyLock::new(|| {
    let certificate = include_bytes!("../../tests/keys/p256.certificate.pem");
    let key = include_bytes!("../../tests/keys/p256.private.pem");
    let Ok(served) = Served::new("certificate", certificate, key) else { panic!("the certificate is good") };
    TlsMaker::new(TlsOptions {
        certificates: vec![served],
        min_version: TlsVersion::Tls12,
        client_certificates: ClientCertificates::None,
        client_authorities: Vec::new(),
    })
    .expect("the options are good")
});

static CLIENTS: LazyLock<[Arc<ClientConfig>; 2]> = LazyLock::new(|| {
    [&TLS12, &TLS13].map(|version| {
        let provider = Arc::new(ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[version])
            .expect("the version is spoken")
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anybody))
            .with_no_client_auth();
        Arc::new(config)
    })
});

fuzz_target!(|data: &[u8]| {
    let Some((&kind, input)) = data.split_first() else { return };
    match kind % 4 {
        0 | 1 => stranger(usize::from(kind / 4) + 1, input),
        version => client(usize::from(version - 2), input),
    }
});

/// Feeds a handshake with anything.
fn stranger(step: usize, input: &[u8]) {
    let whole = heard(input, input.len().max(1));
    let pieces = heard(input, step);
    assert_eq!(whole.0, pieces.0, "cuts change what is found");
    // What is said may hold random bytes; that anything is said may not change.
    assert_eq!(whole.1.is_empty(), pieces.1.is_empty(), "cuts change whether it is answered");
}

/// The fault of it, and what is said.
fn heard(input: &[u8], step: usize) -> (Option<Fault>, Vec<u8>) {
    let mut server = SERVER.make();
    let (mut fault, mut said) = (None, BytesMut::new());
    for piece in input.chunks(step) {
        let mut piece = piece.to_vec();
        let len = piece.len();
        let (consumed, opened) = server.open(&mut piece);
        assert_eq!(consumed, len, "a handshake keeps all of it");
        match opened {
            OpenedBytes::Nothing => {}
            OpenedBytes::Fault(found) => fault = fault.or(Some(found)),
            other => panic!("nobody has shaken hands: {other:?}"),
        }
        while server.wants_step().is_some() {
            match server.step() {
                LayerStep::Nothing => {}
                LayerStep::Fault(found) => fault = fault.or(Some(found)),
                LayerStep::Ready { .. } => panic!("nobody knows the keys"),
            }
        }
        assert!(
            server.stored_bytes() <= 4 * HANDSHAKE_BYTES_MAX + input.len(),
            "memory grows without a bound"
        );
        server.seal(&[], false, &mut said);
    }
    assert!(!server.is_ready());
    (fault, said.to_vec())
}

/// A client that shakes hands, and then does to its records what the input says.
fn client(version: usize, mut input: &[u8]) {
    let mut server = SERVER.make();
    let name = ServerName::try_from("a.test").expect("a name");
    let mut client = ClientConnection::new(Arc::clone(&CLIENTS[version]), name).expect("a client");
    shake_hands(&mut *server, &mut client);

    let (mut wire, mut written, mut opened) = (Vec::new(), Vec::new(), Heard::default());
    let (mut tampered, mut closed) = (false, false);
    while let Some((&[what, at], rest)) = input.split_first_chunk() {
        input = rest;
        match what % 8 {
            // It writes.
            0 | 1 if !closed => {
                let text = vec![at; usize::from(at) * usize::from(what / 8 + 1)];
                std::io::Write::write_all(&mut client.writer(), &text).expect("memory");
                written.extend_from_slice(&text);
            }
            // A bit is turned, a byte lost, a byte made up.
            2 if !wire.is_empty() => {
                let place = usize::from(at) * wire.len() / 256;
                wire[place] ^= 1 << (what / 8 % 8);
                tampered = true;
            }
            3 if !wire.is_empty() => {
                wire.remove(usize::from(at) * wire.len() / 256);
                tampered = true;
            }
            4 => {
                wire.insert(usize::from(at) * wire.len() / 256, what);
                tampered = true;
            }
            5 if version == 1 && !closed => client.refresh_traffic_keys().expect("TLS 1.3"),
            6 => deliver(&mut *server, &mut wire, usize::from(at) + 1, &mut opened),
            7 if at == 0 && !closed => {
                client.send_close_notify();
                closed = true;
            }
            _ => {}
        }
        client.write_tls(&mut wire).expect("memory");
        while client.wants_write() {
            client.write_tls(&mut wire).expect("memory");
        }
        if !tampered && opened.fault.is_none() {
            // What the server says by itself is for the client: key updates. Behind a fault it is an alert.
            answer(&mut *server, &mut client, &[Bytes::from_static(b"!")]);
        }
    }
    deliver(&mut *server, &mut wire, usize::MAX, &mut opened);
    assert!(written.starts_with(&opened.plain), "what was never written is read");
    if !tampered {
        // Keys that are changed again and again, with nothing to say, are a reason.
        assert!(matches!(opened.fault, None | Some(Fault::EmptyRecords)), "{:?}", opened.fault);
        assert!(opened.fault.is_some() || opened.plain == written, "what was written does not arrive");
    }
}

#[derive(Default)]
struct Heard {
    plain: Vec<u8>,
    fault: Option<Fault>,
    over: bool,
}

/// Gives the server what is on the wire, in pieces.
fn deliver(server: &mut dyn Layer, wire: &mut Vec<u8>, step: usize, heard: &mut Heard) {
    let bytes = std::mem::take(wire);
    for piece in bytes.chunks(step) {
        let mut piece = piece.to_vec();
        let mut rest = &mut piece[..];
        while !rest.is_empty() {
            let (consumed, opened) = server.open(rest);
            assert!(consumed > 0, "no progress");
            match opened {
                OpenedBytes::Nothing => {}
                OpenedBytes::Plain(plain) => {
                    assert!(!heard.over && !plain.is_empty(), "something plain behind the end");
                    heard.plain.extend_from_slice(plain);
                }
                OpenedBytes::End => heard.over = true,
                OpenedBytes::Fault(fault) => {
                    assert!(heard.fault.is_none(), "two faults");
                    (heard.fault, heard.over) = (Some(fault), true);
                }
            }
            rest = &mut rest[consumed..];
        }
        server.release();
        assert!(server.stored_bytes() <= STORED_MAX, "memory grows without a bound");
    }
}

fn shake_hands(server: &mut dyn Layer, client: &mut ClientConnection) {
    for _ in 0..10 {
        let mut bytes = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut bytes).expect("memory");
        }
        if !bytes.is_empty() {
            let (_, opened) = server.open(&mut bytes);
            assert_eq!(opened, OpenedBytes::Nothing);
        }
        while server.wants_step().is_some() {
            match server.step() {
                LayerStep::Ready { rest, .. } => assert!(rest.is_empty()),
                LayerStep::Nothing => {}
                LayerStep::Fault(fault) => panic!("an honest client is refused: {fault:?}"),
            }
        }
        answer(server, client, &[]);
        if server.is_ready() && !client.is_handshaking() && !client.wants_write() {
            return;
        }
    }
    panic!("a handshake without an end");
}

/// What the server has to say goes to the client. rustls takes 32 updates of keys in a row, with nothing plain between them.
fn answer(server: &mut dyn Layer, client: &mut ClientConnection, plain: &[Bytes]) {
    let mut sealed = BytesMut::new();
    server.seal(plain, false, &mut sealed);
    let mut sealed = &sealed[..];
    while !sealed.is_empty() {
        client.read_tls(&mut sealed).expect("memory");
        let state = client.process_new_packets().expect("the server speaks TLS");
        let mut read = vec![0; state.plaintext_bytes_to_read()];
        std::io::Read::read_exact(&mut client.reader(), &mut read).expect("it was plain");
    }
}

/// Who the server is does not matter here.
#[derive(Debug)]
struct Anybody;

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        ring::default_provider().signature_verification_algorithms.supported_schemes()
    }
}
