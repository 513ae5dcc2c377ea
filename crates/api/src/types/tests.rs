use std::time::Duration;

use proptest::prelude::*;

use super::*;

#[test]
fn durations() {
    for (text, nanos, canonical) in [
        ("0", 0, "0s"),
        ("0s", 0, "0s"),
        ("90s", 90_000_000_000, "1m30s"),
        ("1m30s", 90_000_000_000, "1m30s"),
        ("1.5h", 5_400_000_000_000, "1h30m0s"),
        ("24h0m0s", 86_400_000_000_000, "24h0m0s"),
        ("250ms", 250_000_000, "250ms"),
        ("1s500ms", 1_500_000_000, "1.5s"),
        ("1.5us", 1_500, "1.5us"),
        ("2µs", 2_000, "2us"),
        ("7ns", 7, "7ns"),
        (".5s", 500_000_000, "500ms"),
        ("1.s", 1_000_000_000, "1s"),
        ("+1s", 1_000_000_000, "1s"),
    ] {
        let duration: GoDuration = text.parse().unwrap();
        assert_eq!(duration.0, Duration::from_nanos(nanos), "{text}");
        assert_eq!(duration.to_string(), canonical);
    }
    for text in ["", "s", "1", "1d", "1 s", "-1s", "1s-", ".s", "1..5s", "9999999999h", "1e3s", "١s"] {
        assert!(text.parse::<GoDuration>().is_err(), "{text}");
    }
}

#[test]
fn ports_and_protocols() {
    assert_eq!("80".parse(), Ok(Port::Number(80)));
    assert_eq!("80:90".parse(), Ok(Port::Range(80, 90)));
    assert_eq!("80:80".parse(), Ok(Port::Number(80)));
    assert_eq!("http-1.x".parse(), Ok(Port::Named("http-1.x".to_owned())));
    for text in ["", "65536", "1:", ":1", "2:1", "a:b", "a b", "ä"] {
        assert!(text.parse::<Port>().is_err(), "{text}");
    }
    assert!("a".repeat(129).parse::<Port>().is_err());
    assert_eq!("17".parse(), Ok(Protocol::Number(17)));
    assert_eq!(Protocol::Number(17).normalized(), Protocol::Udp);
    assert_eq!(Protocol::Number(99).normalized(), Protocol::Number(99));
    assert_eq!("UDPLite".parse::<Protocol>().unwrap().number(), 136);
    for text in ["", "udp", "0", "256", "-1", "TCP "] {
        assert!(text.parse::<Protocol>().is_err(), "{text}");
    }
    let json = |text: &str| serde_json::from_str::<Port>(text);
    assert_eq!(json("\"80\"").unwrap(), Port::Number(80));
    assert_eq!(json("0").unwrap(), Port::Number(0));
    assert!(json("-1").is_err());
    assert!(json("80.5").is_err());
}

#[test]
fn addresses() {
    for text in ["10.0.0.1", "10.0.0.1:179", "fd00::1", "[fd00::1]:179", "fe80::1%eth0", "[fe80::1%eth0]:179"]
    {
        assert_eq!(text.parse::<PeerAddress>().unwrap().to_string(), text);
    }
    assert_eq!("[fd00::1]".parse::<PeerAddress>().unwrap().to_string(), "fd00::1");
    for text in [
        "",
        "10.0.0.1:",
        "10.0.0.1:0",
        "10.0.0.1:70000",
        "[10.0.0.1]:1",
        "[10.0.0.1]",
        "fd00::1:x",
        "[fd00::1]:+1",
        "fd00::1%eth0",
        "fe80::1%",
        "fe80::1%a/b",
        "10.0.0.1%eth0",
    ] {
        assert!(text.parse::<PeerAddress>().is_err(), "{text}");
    }
    assert_eq!("AA-BB-CC-dd-ee-ff".parse::<MacAddr>().unwrap().to_string(), "aa:bb:cc:dd:ee:ff");
    for text in [
        "",
        "aa:bb:cc:dd:ee",
        "aa:bb:cc:dd:ee:ff:00",
        "aa:bb:cc:dd:ee:fg",
        "a:bb:cc:dd:ee:ff",
        "+a:bb:cc:dd:ee:ff",
    ] {
        assert!(text.parse::<MacAddr>().is_err(), "{text}");
    }
    assert_eq!(net::parse_net("10.1.2.3/8").unwrap().to_string(), "10.0.0.0/8");
    assert_eq!(net::parse_net("fd00::1").unwrap().to_string(), "fd00::1/128");
    assert_eq!(net::parse_address("10.1.2.3/8").unwrap().to_string(), "10.1.2.3/8");
    assert!(net::parse_cidr("10.1.2.3").is_err());
    assert!(net::parse_cidr("10.1.2/8").is_err());
}

#[test]
fn communities_and_as_numbers() {
    assert_eq!("1:65535".parse(), Ok(Community::Standard(1, 65535)));
    assert_eq!("4294967295:0:7".parse(), Ok(Community::Large(u32::MAX, 0, 7)));
    for text in ["", "1", "1:", "1:65536", "+1:2", "1:2:3:4", "a:b", "1:2:4294967296"] {
        assert!(text.parse::<Community>().is_err(), "{text}");
    }
    assert_eq!("name".parse(), Ok(CommunityRef::Name("name".to_owned())));
    assert!("1:x".parse::<CommunityRef>().is_err());
    assert_eq!("1.0".parse(), Ok(AsNumber(65536)));
    assert_eq!("4294967295".parse(), Ok(AsNumber(u32::MAX)));
    for text in ["", "1.", ".1", "1.65536", "4294967296", "1.2.3", "x"] {
        assert!(text.parse::<AsNumber>().is_err(), "{text}");
    }
}

proptest! {
    #[test]
    fn durations_come_back(nanos in 0..=i64::MAX.unsigned_abs()) {
        let duration = GoDuration(Duration::from_nanos(nanos));
        prop_assert_eq!(duration.to_string().parse::<GoDuration>().unwrap(), duration);
    }

    #[test]
    fn no_text_panics(text in "[0-9a-z:.µ/%\\[\\]-]{0,24}") {
        prop_assert!(text.parse::<GoDuration>().is_ok_and(|d| d.to_string().parse() == Ok(d)) || text.parse::<GoDuration>().is_err());
        prop_assert!(text.parse::<Port>().is_ok_and(|p| p.to_string().parse() == Ok(p)) || text.parse::<Port>().is_err());
        prop_assert!(text.parse::<PeerAddress>().is_ok_and(|p| p.to_string().parse() == Ok(p)) || text.parse::<PeerAddress>().is_err());
        prop_assert!(text.parse::<Community>().is_ok_and(|c| c.to_string().parse() == Ok(c)) || text.parse::<Community>().is_err());
    }
}
