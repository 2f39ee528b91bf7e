//! Both ends in memory: what a client of rustls says is understood, however it is cut, and the other way round.

pub mod authority;
mod pair;

use std::sync::Arc;

use rustls::crypto::ring;
use rustls::{AlertDescription, Error, HandshakeKind, ProtocolVersion};

use self::authority::Authority;
use self::pair::{Pair, client, client_with, options, server, simple};
use super::connection::TlsState;
use super::*;
use crate::base::bytes::BytesMut;
use crate::layer::tls::record::{HEADER, PLAIN_MAX, alert, plain_alert};
use crate::layer::{Fault, Layer as _};

fn established(pair: &mut Pair) -> (&mut keys::RecordKey, &mut keys::RecordKey) {
    match &mut pair.tls.state {
        TlsState::Established(established) => established.keys(),
        _ => panic!("not established"),
    }
}

fn text(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at % 251) as u8).collect()
}

#[test]
fn every_suite_of_the_provider_agrees_with_a_client_in_any_pieces() {
    let authority = Authority::new();
    let config = server(options(&[authority.server(&["a.test"]), authority.rsa_server(&["a.test"])]));
    let suites = ring::default_provider().cipher_suites;
    assert_eq!(suites.len(), 9);
    for suite in suites {
        let client = client(authority.roots(), Some(suite));
        for cut in [1, 2, 5, 7, 64, 1000, usize::MAX] {
            let mut pair = Pair::new(&config, &client, "a.test");
            pair.cut = cut;
            pair.run();
            assert_eq!((pair.fault, &pair.client_fault), (None, &None), "{suite:?} {cut}");
            assert!(pair.tls.is_ready() && !pair.client.is_handshaking(), "{suite:?} {cut}");
            assert_eq!(pair.client.alpn_protocol(), Some(&b"http/1.1"[..]));
            let long = text(40_000);
            pair.client_says(b"x").client_says(&long);
            assert!(pair.heard[..1] == *b"x" && pair.heard[1..] == long, "{suite:?} {cut}");
            // Pieces that do not end where records do, empty ones among them.
            pair.server_says(&[b"", b"y", b"", &long[..PLAIN_MAX], b"", &long[PLAIN_MAX..]], false);
            assert!(pair.heard_by_client[..1] == *b"y" && pair.heard_by_client[1..] == long);
            pair.server_says(&[b"bye"], true);
            assert!(pair.heard_by_client.ends_with(b"bye"));
            assert!(pair.say(&[b"more"], true).is_empty(), "the end is said once");
            pair.client.send_close_notify();
            pair.run();
            assert!(pair.ended && pair.fault.is_none() && pair.client_fault.is_none(), "{suite:?} {cut}");
        }
    }
}

/// A client may send its request together with the end of its handshake.
#[test]
fn a_request_behind_the_handshake_is_not_lost() {
    let authority = Authority::new();
    let config = server(options(&[authority.server(&["a.test"])]));
    for suite in ring::default_provider().cipher_suites {
        if format!("{suite:?}").contains("RSA") {
            continue;
        }
        for cut in [1, 300, usize::MAX] {
            let mut pair = Pair::new(&config, &client(authority.roots(), Some(suite)), "a.test");
            pair.cut = cut;
            use std::io::Write as _;
            pair.client.writer().write_all(b"GET / HTTP/1.1").unwrap();
            pair.run();
            assert_eq!(pair.heard, b"GET / HTTP/1.1", "{suite:?} {cut}");
        }
    }
}

#[test]
fn an_idle_connection_owns_little() {
    let (server, client) = simple();
    let mut pair = Pair::new(&server, &client, "a.test");
    pair.cut = 3;
    pair.run().client_says(&text(5_000)).server_says(&[&text(5_000)], false);
    assert_eq!(pair.tls.stored_bytes(), 0);
    assert!(matches!(pair.tls.state, TlsState::Established(_)) && pair.certificate.is_none());
    // Half a record: what has come of it.
    let mut half = vec![23, 3, 3, 0x10, 0];
    half.extend([0; 100]);
    pair.receive(&mut half);
    assert!((105..=512).contains(&pair.tls.stored_bytes()), "{}", pair.tls.stored_bytes());
}

#[test]
fn a_client_comes_again_with_a_ticket() {
    let authority = Authority::new();
    let config = server(options(&[authority.server(&["a.test"])]));
    for suite in ring::default_provider().cipher_suites {
        if format!("{suite:?}").contains("RSA") {
            continue;
        }
        let client = client(authority.roots(), Some(suite));
        for time in 0..3 {
            let mut pair = Pair::new(&config, &client, "a.test");
            pair.run().client_says(b"hello").server_says(&[b"hello"], false);
            assert_eq!((pair.resumed, &pair.heard[..]), (time > 0, &b"hello"[..]), "{suite:?}");
            let kind = pair.client.handshake_kind();
            assert_eq!(kind == Some(HandshakeKind::Resumed), time > 0);
            assert_eq!(pair.heard_by_client, b"hello");
        }
    }
    // Another server's tickets are none of ours.
    let other = server(options(&[authority.server(&["a.test"])]));
    let client = client(authority.roots(), None);
    Pair::new(&config, &client, "a.test").run();
    let mut pair = Pair::new(&other, &client, "a.test");
    pair.run();
    assert!(pair.tls.is_ready() && !pair.resumed);
}

#[test]
fn keys_of_tls_13_change_from_both_sides() {
    let authority = Authority::new();
    let config = server(options(&[authority.server(&["a.test"])]));
    for suite in ring::default_provider().cipher_suites {
        if suite.version() != &rustls::version::TLS13 {
            continue;
        }
        let mut pair = Pair::new(&config, &client(authority.roots(), Some(suite)), "a.test");
        pair.cut = 11;
        pair.run();
        for round in 0..5 {
            // The client asks for ours as well.
            pair.client.refresh_traffic_keys().unwrap();
            pair.client_says(b"after the client's");
            assert_eq!(established(&mut pair).1.sequence(), 1, "{suite:?} {round}: their new key");
            assert_eq!(established(&mut pair).0.sequence(), 0, "{suite:?} {round}: our new key");
            pair.server_says(&[b"after ours"], false);
            assert!(pair.client_fault.is_none() && pair.fault.is_none(), "{:?}", pair.client_fault);
        }
        assert_eq!(pair.heard, b"after the client's".repeat(5));
        assert_eq!(pair.heard_by_client, b"after ours".repeat(5));
    }
}

/// An end of ours in place of rustls', which would count as far itself.
#[test]
fn a_key_is_changed_before_it_is_worn_and_one_that_cannot_be_is_the_end() {
    let authority = Authority::new();
    let config = server(options(&[authority.server(&["a.test"])]));
    for (suite, has_next) in [
        (ring::cipher_suite::TLS13_AES_128_GCM_SHA256, true),
        (ring::cipher_suite::TLS13_CHACHA20_POLY1305_SHA256, true),
        (ring::cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, false),
    ] {
        let mut pair = Pair::new(&config, &client(authority.roots(), Some(suite)), "a.test");
        pair.run();
        established(&mut pair).0.wear_out(2);
        let mut theirs = established(&mut pair).0.clone();
        let mut heard = Vec::new();
        for number in 0..4u8 {
            let mut sealed = pair.say(&[&[number]], false);
            let mut rest = &mut sealed[..];
            while !rest.is_empty() {
                let len = record::whole(rest, None).unwrap().unwrap();
                let (kind, at) = theirs.open(&theirs.ring_key(), &mut rest[..len]).unwrap();
                let plain = rest[at].to_vec();
                if kind == record::kind::HANDSHAKE {
                    assert_eq!(plain, [24, 0, 0, 1, 0], "a key update that asks for none");
                    theirs.update();
                }
                heard.push((kind, plain));
                rest = &mut rest[len..];
            }
        }
        use record::kind::{ALERT, APPLICATION_DATA, HANDSHAKE};
        let kinds: Vec<u8> = heard.iter().map(|(kind, _)| *kind).collect();
        let is_gcm = suite.suite() != rustls::CipherSuite::TLS13_CHACHA20_POLY1305_SHA256;
        match (has_next, is_gcm) {
            (true, true) => assert_eq!(kinds, [[HANDSHAKE].as_slice(), &[APPLICATION_DATA; 4]].concat()),
            (true, false) => assert_eq!(kinds, [APPLICATION_DATA; 4]),
            (false, _) => {
                assert_eq!(kinds, [APPLICATION_DATA, APPLICATION_DATA, ALERT]);
                assert_eq!(heard[2].1, [1, 0], "close_notify");
                pair.client_says(b"still there?");
                assert_eq!((pair.fault, &pair.heard[..]), (Some(Fault::KeyExhausted), &b""[..]));
            }
        }
    }
}

#[test]
fn records_that_carry_nothing_are_bounded() {
    let (server, client) = simple();
    let mut pair = Pair::new(&server, &client, "a.test");
    pair.run();
    // As the client would seal them; its own sequence stays behind, so it says nothing more.
    let mut key = established(&mut pair).1.clone();
    let mut record = |pair: &mut Pair, kind: u8, plain: &[u8]| {
        let mut sealed = BytesMut::new();
        key.seal(&key.ring_key(), kind, [plain].into_iter(), &mut sealed);
        if kind == record::kind::HANDSHAKE {
            key.update();
        }
        pair.receive(&mut sealed);
    };
    for _ in 0..16 {
        record(&mut pair, record::kind::APPLICATION_DATA, b"");
        record(&mut pair, record::kind::HANDSHAKE, &[24, 0, 0, 1, 1]);
    }
    assert_eq!(pair.fault, None);
    let said = pair.say(&[], false);
    assert_eq!(said.len(), HEADER + 5 + 1 + 16, "one answer to all of them");
    record(&mut pair, record::kind::APPLICATION_DATA, b"x");
    assert_eq!((pair.fault, &pair.heard[..]), (None, &b"x"[..]));
    for _ in 0..33 {
        assert_eq!(pair.fault, None);
        record(&mut pair, record::kind::ALERT, &[1, alert::USER_CANCELED]);
    }
    assert_eq!(pair.fault, Some(Fault::EmptyRecords));
    pair.run();
    assert!(pair.say(&[b"more"], true).is_empty(), "the alert was the last");
}

#[test]
fn what_has_no_place_behind_the_handshake_is_refused_by_name() {
    let (server, client) = simple();
    let refused = |kind: u8, plain: &[u8]| {
        let mut pair = Pair::new(&server, &client, "a.test");
        pair.run();
        let mut key = established(&mut pair).1.clone();
        let mut sealed = BytesMut::new();
        key.seal(&key.ring_key(), kind, [plain].into_iter(), &mut sealed);
        pair.receive(&mut sealed);
        pair.run();
        let alert = match pair.client_fault {
            Some(Error::AlertReceived(alert)) => Some(alert),
            None => None,
            Some(other) => panic!("{other}"),
        };
        (pair.fault, alert)
    };
    let unexpected = (Some(Fault::Unexpected), Some(AlertDescription::UnexpectedMessage));
    use record::kind::{ALERT, APPLICATION_DATA, CHANGE_CIPHER_SPEC, HANDSHAKE};
    assert_eq!(refused(HANDSHAKE, &[1, 0, 0, 0]), unexpected, "a ClientHello");
    assert_eq!(refused(HANDSHAKE, &[24, 0, 0, 1, 2]), unexpected);
    assert_eq!(refused(HANDSHAKE, &[24, 0, 0, 1]), unexpected, "half a key update");
    assert_eq!(refused(CHANGE_CIPHER_SPEC, &[1]), unexpected);
    assert_eq!(refused(ALERT, &[1]), unexpected);
    assert_eq!(refused(99, b"x"), unexpected);
    assert_eq!(refused(ALERT, &[2, 46]), (Some(Fault::CertificateRefused), None));
    assert_eq!(refused(ALERT, &[1, 80]), (Some(Fault::AlertReceived), None));
    assert_eq!(refused(APPLICATION_DATA, b"x"), (None, None));

    let mut pair = Pair::new(&server, &client, "a.test");
    pair.run();
    pair.receive(&mut [23, 3, 3, 0, 20].into_iter().chain([9; 20]).collect::<Vec<u8>>());
    pair.run();
    assert_eq!(pair.fault, Some(Fault::BadRecord));
    assert_eq!(pair.client_fault, Some(Error::AlertReceived(AlertDescription::BadRecordMac)));

    let mut pair = Pair::new(&server, &client, "a.test");
    pair.run();
    pair.receive(&mut [23, 3, 3, 0x41, 1]);
    pair.run();
    assert_eq!(pair.fault, Some(Fault::RecordTooLong));
    assert_eq!(pair.client_fault, Some(Error::AlertReceived(AlertDescription::RecordOverflow)));
}

#[test]
fn tls_12_is_not_negotiated_twice() {
    let authority = Authority::new();
    let suite = ring::cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384;
    let mut pair = Pair::new(
        &server(options(&[authority.server(&["a.test"])])),
        &client(authority.roots(), Some(suite)),
        "a.test",
    );
    pair.run();
    assert_eq!(pair.client.protocol_version(), Some(ProtocolVersion::TLSv1_2));
    let mut key = established(&mut pair).1.clone();
    let mut sealed = BytesMut::new();
    key.seal(&key.ring_key(), record::kind::HANDSHAKE, [&[1, 0, 0, 0][..]].into_iter(), &mut sealed);
    pair.receive(&mut sealed);
    pair.run();
    assert_eq!(pair.fault, Some(Fault::Renegotiation));
    assert_eq!(pair.client_fault, Some(Error::AlertReceived(AlertDescription::NoRenegotiation)));
}

#[test]
fn what_is_no_tls_is_answered_in_its_own_words() {
    let (server, client) = simple();
    for cut in [1, usize::MAX] {
        let mut pair = Pair::new(&server, &client, "a.test");
        pair.cut = cut;
        pair.receive(&mut b"GET /connection/websocket HTTP/1.1\r\nHost: a.test\r\n\r\n".to_vec());
        assert_eq!(pair.fault, Some(Fault::PlainHttp));
        let said = String::from_utf8(pair.say(&[], true)).unwrap();
        assert!(said.starts_with("HTTP/1.1 400 Bad Request\r\n") && said.contains("speaks TLS"), "{said}");
        assert!(pair.say(&[b"more"], true).is_empty());
    }
    let mut pair = Pair::new(&server, &client, "a.test");
    pair.receive(&mut [0x80, 0x2e, 1, 0, 2].to_vec());
    assert_eq!(pair.fault, Some(Fault::NotTls));
    assert_eq!(pair.say(&[], true), plain_alert(2, 50));
    let mut pair = Pair::new(&server, &client, "a.test");
    pair.receive(&mut [22, 3, 1, 0xff, 0xff].to_vec());
    assert_eq!(pair.fault, Some(Fault::RecordTooLong));
}

#[test]
fn a_handshake_has_a_bound() {
    let (server, client) = simple();
    let mut pair = Pair::new(&server, &client, "a.test");
    // A ClientHello of 64 KB, in records.
    let mut most = 0;
    let mut first = vec![1, 0, 0xff, 0xff];
    while pair.fault.is_none() {
        let mut record = vec![22, 3, 1, 1, 0];
        first.resize(256, 0);
        record.append(&mut first);
        pair.receive(&mut record);
        most = most.max(pair.tls.stored_bytes());
        assert!(pair.steps < 1000);
    }
    assert_eq!(pair.fault, Some(Fault::HandshakeTooLarge));
    assert!(most <= 4 * HANDSHAKE_BYTES_MAX, "{most}");
    assert_eq!(pair.tls.stored_bytes(), pair.tls.first.capacity());
}

#[test]
fn a_handshake_that_was_given_up_says_so_while_it_can_be_read() {
    let (server, client) = simple();
    let mut pair = Pair::new(&server, &client, "a.test");
    assert_eq!(pair.say(&[b"503, said to nobody"], true), plain_alert(1, 0));
    assert!(pair.say(&[b"more"], true).is_empty());
    pair.run();
    assert!(!pair.tls.is_ready() && pair.fault.is_none());
}

/// Whatever comes, it ends in a fault or in waiting for more, and never in a panic.
#[test]
fn any_byte_of_a_handshake_may_be_another() {
    let (server, client) = simple();
    let mut prng = crate::base::prng::Prng::with_seed(7);
    let hello = || {
        let mut pair = Pair::new(&server, &client, "a.test");
        let mut bytes = Vec::new();
        pair.client.write_tls(&mut bytes).unwrap();
        (pair, bytes)
    };
    for _ in 0..300 {
        let (mut pair, mut bytes) = hello();
        let at = prng.usize(..bytes.len());
        bytes[at] ^= 1 << prng.u8(0..8);
        pair.cut = prng.usize(1..bytes.len() + 1);
        pair.receive(&mut bytes);
        if pair.fault.is_some() {
            assert!(!pair.tls.is_ready());
            let said = pair.say(&[], true);
            assert!(
                said.is_empty() || said[0] == 21 || said[0] == 22 || said.starts_with(b"HTTP"),
                "{said:?}"
            );
        }
    }
}

#[test]
fn a_name_has_its_certificate_and_an_unknown_one_the_first() {
    let authority = Authority::new();
    let served = [authority.server(&["a.test"]), authority.server(&["b.test", "*.b.test"])];
    let config = server(options(&served));
    let client = client(authority.roots(), None);
    for (name, expected) in [("a.test", 0), ("b.test", 1), ("x.b.test", 1)] {
        let mut pair = Pair::new(&config, &client, name);
        pair.run();
        let shown = pair.client.peer_certificates().unwrap()[0].clone();
        assert_eq!(shown, authority::der(&served[expected].0), "{name}");
    }
    for unknown in ["c.test", "127.0.0.1"] {
        let mut pair = Pair::new(&config, &client, unknown);
        pair.run();
        // The client sees the first one, which is not for that name, and says so.
        assert!(matches!(pair.client_fault, Some(Error::InvalidCertificate(_))), "{unknown}");
        assert_eq!(pair.fault, Some(Fault::CertificateRefused), "{unknown}");
    }
}

#[test]
fn versions_and_protocols_that_are_not_spoken_are_refused_by_name() {
    let authority = Authority::new();
    let mut strict = options(&[authority.server(&["a.test"])]);
    strict.min_version = TlsVersion::Tls13;
    let strict = server(strict);
    let old = client(authority.roots(), Some(ring::cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256));
    let mut pair = Pair::new(&strict, &old, "a.test");
    pair.run();
    assert_eq!(pair.fault, Some(Fault::Incompatible));
    assert_eq!(pair.client_fault, Some(Error::AlertReceived(AlertDescription::ProtocolVersion)));

    let mut h2 = (*client(authority.roots(), None)).clone();
    h2.alpn_protocols = vec![b"h2".to_vec()];
    let mut pair = Pair::new(&strict, &Arc::new(h2.clone()), "a.test");
    pair.run();
    assert_eq!(pair.fault, Some(Fault::NoProtocol));
    assert_eq!(pair.client_fault, Some(Error::AlertReceived(AlertDescription::NoApplicationProtocol)));
    h2.alpn_protocols = Vec::new();
    let mut pair = Pair::new(&strict, &Arc::new(h2), "a.test");
    pair.run();
    assert!(pair.tls.is_ready(), "a client without protocols is let in");
}

#[test]
fn clients_show_who_they_are() {
    let authority = Authority::new();
    let stranger = Authority::new();
    let own = authority.server(&["client-1"]);
    let expired = Authority::new().until(2020);
    let mut wanted = options(&[authority.server(&["a.test"])]);
    wanted.client_authorities = vec![authority.certificate(), expired.certificate()];
    for suite in [None, Some(ring::cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256)] {
        for kind in [ClientCertificates::Request, ClientCertificates::Require] {
            wanted.client_certificates = kind;
            let config = server(wanted.clone());
            let come = |own: Option<&(String, String)>| {
                let client = client_with(authority.roots(), suite, own);
                let mut pair = Pair::new(&config, &client, "a.test");
                pair.run();
                (pair, client)
            };
            let (pair, client) = come(Some(&own));
            let shown = pair.certificate.unwrap();
            assert_eq!(&*shown.subject, "CN=client-1");
            assert_eq!(shown.fingerprint_hex(), fingerprint(&own.0));
            // A ticket remembers it.
            let mut pair = Pair::new(&config, &client, "a.test");
            pair.run();
            assert_eq!((pair.resumed, pair.certificate.as_ref()), (true, Some(&shown)));

            let (pair, _) = come(None);
            match kind {
                ClientCertificates::Require => assert_eq!(pair.fault, Some(Fault::ClientCertificateMissing)),
                _ => assert!(pair.tls.is_ready() && pair.certificate.is_none()),
            }
            let (pair, _) = come(Some(&stranger.server(&["client-1"])));
            assert_eq!(pair.fault, Some(Fault::ClientCertificateUnknown));
            assert_eq!(pair.client_fault, Some(Error::AlertReceived(AlertDescription::UnknownCA)));
            let (pair, _) = come(Some(&expired.server(&["client-1"])));
            assert_eq!(pair.fault, Some(Fault::ClientCertificateExpired));
            assert_eq!(pair.client_fault, Some(Error::AlertReceived(AlertDescription::CertificateExpired)));
        }
    }
}

fn fingerprint(pem: &str) -> String {
    let digest = ::ring::digest::digest(&::ring::digest::SHA256, &authority::der(pem));
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn options_are_exchanged_while_connections_live() {
    let authority = Authority::new();
    let (old, new) = (authority.server(&["a.test"]), authority.server(&["a.test"]));
    let maker = TlsMaker::new(options(&[old])).unwrap();
    let client = client(authority.roots(), None);
    let make = || {
        let config = Arc::clone(&maker.config.read());
        let mut pair = Pair::new(&config, &client, "a.test");
        pair.run();
        pair
    };
    let mut before = make();
    maker.exchange(options(std::slice::from_ref(&new))).unwrap();
    let after = make();
    assert!(after.resumed, "its ticket is still good");
    before.client_says(b"still here").server_says(&[b"yes"], false);
    assert_eq!((&before.heard[..], &before.heard_by_client[..]), (&b"still here"[..], &b"yes"[..]));
    let fresh = self::client(authority.roots(), None);
    let mut pair = Pair::new(&Arc::clone(&maker.config.read()), &fresh, "a.test");
    pair.run();
    assert_eq!(pair.client.peer_certificates().unwrap()[0], authority::der(&new.0));
}
