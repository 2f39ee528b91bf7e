//! Programs that others use: openssl and curl.

use std::io::Write as _;
use std::process::{Command, Output, Stdio};

use super::authority::Authority;
use super::client::address;
use super::start;
use crate::on_both_drivers;

fn tool(program: &str, arguments: &[&str], input: &[u8]) -> Output {
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{program}: {error}"));
    child.stdin.take().expect("a pipe").write_all(input).expect("it reads");
    child.wait_with_output().expect("it ends")
}

on_both_drivers! {
    fn openssl_and_curl_are_served(driver: Driver) {
        let authority = Authority::new();
        let daemon = start(driver, &authority.sign("a", "localhost"), "");
        let port = address(&daemon).port();
        let request = b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        for (version, cipher) in [
            ("-tls1_2", "ECDHE-ECDSA-AES128-GCM-SHA256"),
            ("-tls1_2", "ECDHE-ECDSA-CHACHA20-POLY1305"),
            ("-tls1_3", "TLS_AES_256_GCM_SHA384"),
            ("-tls1_3", "TLS_CHACHA20_POLY1305_SHA256"),
        ] {
            let suites = if version == "-tls1_3" { "-ciphersuites" } else { "-cipher" };
            let connect = format!("127.0.0.1:{port}");
            let file = authority.file();
            let output = tool("openssl", &[
                "s_client", "-connect", &connect, "-servername", "localhost", "-verify_return_error", "-ign_eof",
                "-alpn", "http/1.1", "-CAfile", &file, version, suites, cipher,
            ], request);
            let said = String::from_utf8_lossy(&output.stdout);
            assert!(said.contains("HTTP/1.1 200 OK"), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
            assert!(said.contains("ALPN protocol: http/1.1") && said.contains(cipher), "{said}");
        }
        for version in ["--tls-max 1.2", "--tlsv1.3"] {
            let url = format!("https://localhost:{port}/health");
            let file = authority.file();
            let mut arguments = vec!["-sS", "--http1.1", "-w", "%{http_code}", "-o", "/dev/null", "--cacert", &file];
            arguments.extend(version.split(' '));
            arguments.push(&url);
            let output = tool("curl", &arguments, b"");
            assert_eq!(String::from_utf8_lossy(&output.stdout), "200", "{}", String::from_utf8_lossy(&output.stderr));
        }
        // A key update and the end of the input, as openssl says them.
        let connect = format!("127.0.0.1:{port}");
        let file = authority.file();
        let said = tool("openssl", &[
            "s_client", "-connect", &connect, "-servername", "localhost", "-CAfile", &file, "-tls1_3", "-quiet",
            "-verify_quiet",
        ], &[&b"K\n"[..], request].concat());
        assert!(String::from_utf8_lossy(&said.stdout).contains("HTTP/1.1 "), "{said:?}");
    }
}
