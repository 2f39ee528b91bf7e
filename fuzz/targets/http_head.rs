//! A request head: read in one piece, in pieces, and by httparse.
#![no_main]

use libfuzzer_sys::fuzz_target;
use trunkline::base::limits::HTTP_HEADERS_MAX;
use trunkline::proto::http1::{HeadScan, parse_head, parse_response_head};

fuzz_target!(|data: &[u8]| {
    drop(parse_response_head(data));

    // A buffer that fills byte by byte ends as the whole does.
    let whole = HeadScan::default().find_end(data);
    let mut scan = HeadScan::default();
    let mut grown = Ok(None);
    for end in 0..=data.len() {
        grown = scan.find_end(&data[..end]);
        if !matches!(grown, Ok(None)) {
            break;
        }
    }
    assert_eq!(whole, grown);

    let Ok(Some((head, len))) = parse_head(data) else { return };
    let _ = (head.host(), head.keep_alive(), head.expects_continue(), head.body_length());
    let mut fields = [httparse::EMPTY_HEADER; HTTP_HEADERS_MAX];
    let mut other = httparse::Request::new(&mut fields);
    match other.parse(data) {
        Ok(httparse::Status::Complete(end)) => {
            assert_eq!(end, len, "the head ends elsewhere");
            assert_eq!(other.method, Some(head.method));
            assert_eq!(other.path.map(str::as_bytes), Some(head.target));
            let ours: Vec<(&str, &[u8])> = head.headers().collect();
            let theirs: Vec<(&str, &[u8])> =
                other.headers.iter().map(|field| (field.name, field.value)).collect();
            assert_eq!(ours, theirs);
        }
        Ok(httparse::Status::Partial) => panic!("httparse waits for more"),
        // It knows 1.0 and 1.1 alone; later minor versions are to be taken (RFC 9110 section 2.5).
        Err(httparse::Error::Version) => {}
        // Targets are text to it; ours may be latin-1 in the query.
        Err(httparse::Error::Token) if std::str::from_utf8(head.target).is_err() => {}
        Err(error) => panic!("httparse refuses: {error}"),
    }
});
