//! `[service.health]`.

use super::*;

#[test]
#[rustfmt::skip]
fn faults_of_a_probe_are_found_at_their_place() {
    let identity = "{ certificate = \"web.example\" }";
    run(&[
        ("kind = \"https\"", "kind = §\"htps\"", "bad-value", ""),
        (identity, "{ pattern = §\"a(\" }", "bad-value", "{ pattern = \"^build [0-9]+$\" }"),
        (identity, "{ pattern = §\"(a{999}){999}\" }", "bad-value", ""),
        ("kind = \"https\"", "kind = \"https\"\ncertificate_warning = §\"400d\"", "bad-value",
            "kind = \"https\"\ncertificate_warning = \"30d\""),
        ("[service.health]\nkind = \"https\"", "§[service.health]", "missing-key", ""),
        ("port = 8443", "port = §0", "port-mismatch", "port = 1"),
        ("\"/healthz\"", "§\"healthz\"", "bad-value", "\"/\""),
        ("\"/healthz\"", "§\"/a b\"", "bad-value", "\"/a?b=c%20d\""),
        ("host = \"web.example\"", "host = §\"a\\r\\nb\"", "bad-value", "host = \"a:8080\""),
        ("[200]", "§200", "wrong-type", "[200, 204]"),
        ("[200]", "[200, §99]", "bad-value", "[100, 599]"),
        ("[200]", "§[]", "bad-value", "[301]"),
        (identity, "§{}", "bad-value", "{ body = \"ok\" }"),
        (identity, "§\"web\"", "wrong-type", "{ header = { name = \"server\", value = \"web 1\" } }"),
        (identity, "§{ body = \"x\", certificate = \"y\" }", "bad-value", ""),
        (identity, "{ body = §\"\" }", "bad-value", "{ body = \"\\n\" }"),
        (identity, "{ header = §{ name = \"a\" } }", "missing-key", ""),
        (identity, "{ header = { name = §\"a b\", value = \"c\" } }", "bad-value", ""),
        (identity, "{ header = { name = \"a\", value = §\"c\\n\" } }", "bad-value", ""),
        (identity, "{ certificate = §\"*.example\" }", "bad-value", "{ certificate = \"a.b-c.example\" }"),
        ("\"www.web.example\"", "§\"a..b\"", "bad-value", "\"a.b\""),
        ("\"/etc/ca.pem\"", "§\"ca.pem\"", "bad-value", "\"/ca.pem\""),
        ("\"2s\"", "§2", "wrong-type", "\"5s\""),
        ("\"2s\"", "§\"9ms\"", "bad-value", "\"2.5s\""),
        ("jitter = 0.2", "jitter = §0.6", "bad-value", "jitter = 0.5"),
        ("\"250ms\"", "§\"0s\"", "bad-value", "\"1ms\""),
        ("rise = 3", "rise = §0", "bad-value", "rise = 100"),
        ("fall = 4", "fall = §101", "bad-value", "fall = 2"),
        ("[\"/\", \"/cart?full=1\"]", "§\"/\"", "wrong-type", "[]"),
        ("[\"/\", \"/cart?full=1\"]", "[§\"cart\"]", "bad-value", "[\"/cart\"]"),
        ("[\"/\", \"/cart?full=1\"]", "§[\"/1\", \"/2\", \"/3\", \"/4\", \"/5\"]", "bad-value",
            "[\"/1\", \"/2\", \"/3\", \"/4\"]"),
    ]);
}

#[test]
fn a_key_that_does_not_fit_the_kind_is_found() {
    let from = "kind = \"tcp\"";
    for key in [
        "path = \"/\"",
        "host = \"h\"",
        "expect_status = [200]",
        "identity = { body = \"x\" }",
        "compare = [\"/\"]",
        "server_name = \"a.b\"",
        "ca_file = \"/ca\"",
    ] {
        assert_finds(
            &spoiled(from, &format!("{from}\n§{key}")),
            "unknown-key",
            "error",
        );
    }
    // It stands in a UDP service.
    let http = "kind = \"http\"\nexpect_status = [200]";
    for key in [
        "compare = [\"/\"]",
        "server_name = \"a.b\"",
        "ca_file = \"/ca\"",
        "identity = { certificate = \"a.b\" }",
    ] {
        assert_finds(
            &spoiled(from, &format!("{http}\n§{key}")),
            "unknown-key",
            "error",
        );
    }
    assert_clean(&spoiled(from, http));
}

#[test]
fn faults_of_the_other_kinds_are_found_at_their_place() {
    let from = "kind = \"tcp\"";
    let wrong = |text: &str, rule: &str| assert_finds(&spoiled(from, text), rule, "error");
    for text in [
        "kind = \"udp\"\nsend = \"x\"\nexpect = §\"\"",
        "kind = \"udp\"\nsend_hex = §\"0\"",
        "kind = \"udp\"\nsend_hex = §\"0g\"",
        "kind = \"dns\"\nquery_name = §\"a..b\"",
        "kind = \"dns\"\nquery_name = \"a.b\"\nquery_type = §\"a\"",
        "kind = \"dns\"\nquery_name = \"a.b\"\nexpect_answer = [§\"::1\"]",
        "kind = \"command\"\ncommand = §[\"check\"]",
        "kind = \"command\"\ncommand = [\"/check\", §\"\\u0000\"]",
        "kind = \"command\"\ncommand = [\"/check\"]\ncommand_user = §\"a b\"",
        "kind = \"grpc\"\ngrpc_service = §\"a b\"",
    ] {
        wrong(text, "bad-value");
    }
    for text in [
        "kind = \"udp\"\nsend = \"x\"\n§send_hex = \"00\"",
        "kind = \"udp\"\nsend = \"x\"\n§query_name = \"a.b\"",
        "kind = \"dns\"\nquery_name = \"a.b\"\n§path = \"/\"",
        "kind = \"h2c\"\nexpect_status = [200]\n§identity = { certificate = \"a.b\" }",
        "kind = \"h2\"\nexpect_status = [200]\n§compare = [\"/\"]",
        "kind = \"grpc\"\n§certificate_warning = \"1d\"\ngrpc_service = \"a\"",
        "kind = \"grpc\"\n§identity = { body = \"x\" }",
        "kind = \"grpcs\"\n§identity = { pattern = \"x\" }",
    ] {
        wrong(text, "unknown-key");
    }
    let head = "[service.health]\nkind = \"tcp\"";
    for kind in ["udp", "dns", "command"] {
        let text = spoiled(head, &format!("§[service.health]\nkind = \"{kind}\""));
        assert_finds(&text, "missing-key", "error");
    }
    for text in [
        "kind = \"udp\"\nsend = \"x\\r\\n\"\nexpect_hex = \"00fF\"",
        "kind = \"dns\"\nquery_name = \".\"\nquery_type = \"NS\"",
        "kind = \"dns\"\nquery_name = \"a.b\"\nexpect_answer = [\"192.0.2.1\"]",
        "kind = \"command\"\ncommand = [\"/check\", \"-x\"]\ncommand_user = \"probe\"",
        "kind = \"grpc\"\ngrpc_service = \"shop.Cart\"\nhost = \"shop\"",
        "kind = \"grpcs\"\nidentity = { certificate = \"a.b\" }\ncertificate_warning = \"0s\"",
        "kind = \"h2\"\nexpect_status = [200]\nserver_name = \"a.b\"",
    ] {
        assert_clean(&spoiled(from, text));
    }
}

#[test]
fn any_port_needs_a_port_to_probe() {
    let text = spoiled("[53, \"8053-8060\"]", "\"any\"");
    let (head, tail) = text.rsplit_once("[service.health]").unwrap();
    assert_finds(
        &format!("{head}§[service.health]{tail}"),
        "missing-key",
        "error",
    );
    let with_port = format!("{head}[service.health]\nport = 53{tail}");
    assert_clean(&with_port);
    let config = parse(&with_port).config.unwrap();
    assert_eq!(config.services[1].ports, Ports::Any);
}
