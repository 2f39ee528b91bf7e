use super::*;

fn info() -> ClientInfo {
    ClientInfo {
        user: "ann".into(),
        client: "c1".into(),
        conn_info: Some(Bytes::from_static(b"{}")),
        chan_info: None,
    }
}

/// Written out by hand from the published schema: field number and type, length, bytes.
#[test]
fn what_is_written_is_the_published_layout() {
    let publication = SharedPublication {
        data: Bytes::from_static(b"{\"a\":1}"),
        info: Some(info()),
        offset: 0,
        tags: vec![("k".into(), String::new())],
        time_ms: 300,
    };
    let mut out = Vec::new();
    encode_publication(&mut out, &publication);
    let golden =
        b"\x22\x07{\"a\":1}\x2a\x0d\x0a\x03ann\x12\x02c1\x1a\x02{}\x3a\x05\x0a\x01k\x12\x00\x48\xac\x02";
    assert_eq!(out, golden);
    assert_eq!(decode_publication(&out), Ok(publication.clone()));

    let mut out = Vec::new();
    encode_client_info(&mut out, &info());
    assert_eq!(out, b"\x0a\x03ann\x12\x02c1\x1a\x02{}");
    assert_eq!(decode_client_info(&out), Ok(info()));

    for push in [SharedPush::Publication(publication), SharedPush::Join(info()), SharedPush::Leave(info())] {
        let mut out = Vec::new();
        encode_push(&mut out, "ch", &push);
        assert!(out.starts_with(b"\x12\x02ch"), "{out:?}");
        assert_eq!(decode_push(&out), Ok(Some(("ch".to_string(), push))));
    }
}

/// Fields of later builds are skipped, and what is no message is refused.
#[test]
fn messages_of_others_are_read_or_refused() {
    let newer = b"\x22\x011\x40\x01\x80\x01\x07\x92\x01\x03abc";
    let read = decode_publication(newer).unwrap();
    assert_eq!((&read.data[..], read.offset), (&b"1"[..], 0));
    for wrong in [&b"\x22\x09{}"[..], b"\x20\x01", b"\x2a\x02\x0a\x05", b"\x03", b"hello"] {
        assert!(decode_publication(wrong).is_err(), "{wrong:?}");
    }
    assert_eq!(decode_push(b"\x12\x02ch"), Ok(None));
}

#[test]
fn what_nodes_say_comes_back_as_it_was_said() {
    let texts = |text: &str| text.to_string();
    let words = [
        NodeWord::Node(NodeStanding {
            uid: texts("u"),
            name: texts("n"),
            version: texts("1"),
            clients: 300,
            users: 2,
            channels: 3,
            uptime_s: 4,
            subs: 5,
        }),
        NodeWord::Unsubscribe {
            channel: texts("c"),
            user: texts("u"),
            client: texts("i"),
            session: String::new(),
            code: 2000,
            reason: texts("r"),
        },
        NodeWord::Disconnect {
            user: texts("u"),
            whitelist: vec![texts("a"), texts("b")],
            code: 3503,
            reason: texts("r"),
            client: texts("i"),
            session: texts("s"),
        },
        NodeWord::Shutdown,
        NodeWord::Subscribe(Box::new(NodeSubscribe {
            user: texts("u"),
            channel: texts("c"),
            presence: true,
            expire_at: 1 << 40,
            recover: true,
            channel_info: Bytes::from_static(b"1"),
            recover_since: Some((7, texts("e"))),
            ..NodeSubscribe::default()
        })),
        NodeWord::Notification { op: texts("o"), data: Bytes::from_static(b"d") },
        NodeWord::Refresh {
            user: texts("u"),
            client: texts("c"),
            expired: true,
            expire_at: 5,
            info: Bytes::from_static(b"{}"),
            session: String::new(),
        },
    ];
    for what in words {
        let message = NodeMessage { uid: texts("me"), what };
        let mut out = Vec::new();
        encode_node_message(&mut out, &message);
        assert_eq!(decode_node_message(&out), Ok(message));
    }
    // A survey, of which this build knows nothing.
    assert_eq!(decode_node_message(b"\x0a\x01x\x10\x04\x1a\x02\x08\x01").unwrap().what, NodeWord::Other);
    assert!(decode_node_message(b"\x0a\x09x").is_err());
    // Golden bytes of a disconnect.
    let mut out = Vec::new();
    let what = NodeWord::Disconnect {
        user: texts("u"),
        whitelist: Vec::new(),
        code: 3503,
        reason: String::new(),
        client: String::new(),
        session: String::new(),
    };
    encode_node_message(&mut out, &NodeMessage { uid: texts("me"), what });
    assert_eq!(out, b"\x0a\x02me\x10\x02\x1a\x06\x0a\x01u\x18\xaf\x1b");
}
