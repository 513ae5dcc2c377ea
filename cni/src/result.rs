//! Results, in every version's shape.

use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::{Map, Value, json};

use crate::config::Dns;
use crate::error::{CniError, code};
use crate::version::Version;

/// What ADD made, independent of the version it is written in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CniResult {
    /// Interfaces made.
    pub interfaces: Vec<Interface>,
    /// Addresses assigned.
    pub ips: Vec<IpConfig>,
    /// Routes inside the container.
    pub routes: Vec<RouteConfig>,
    /// DNS settings.
    pub dns: Dns,
}

/// An interface of a result.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Interface {
    /// Name.
    pub name: String,
    /// Ethernet address as text; may be empty.
    pub mac: String,
    /// MTU, octets (written from 1.1.0 on).
    pub mtu: Option<u32>,
    /// Path of the namespace it is in; empty on the host.
    pub sandbox: String,
}

/// An address of a result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IpConfig {
    /// Address and prefix length.
    pub address: IpNet,
    /// Gateway.
    pub gateway: Option<IpAddr>,
    /// Place of its interface in the list.
    pub interface: Option<usize>,
}

/// A route of a result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteConfig {
    /// Destination.
    pub destination: IpNet,
    /// Gateway.
    pub gateway: Option<IpAddr>,
}

impl CniResult {
    /// Addresses of an interface in the container; one that names no interface belongs to any.
    pub fn ips_of<'a>(&'a self, ifname: &'a str) -> impl Iterator<Item = &'a IpConfig> {
        self.ips.iter().filter(move |ip| {
            let interface = ip.interface.and_then(|place| self.interfaces.get(place));
            interface.is_none_or(|interface| interface.name == ifname)
        })
    }

    /// The result as `version` writes it.
    pub fn to_json(&self, version: Version) -> Value {
        if version < Version::V0_3_0 {
            return self.to_json_02(version);
        }
        let interfaces: Vec<Value> = self
            .interfaces
            .iter()
            .map(|interface| {
                let mut object = Map::from_iter([("name".to_owned(), json!(interface.name))]);
                let mut put = |key: &str, value: Value| object.insert(key.to_owned(), value);
                if !interface.mac.is_empty() {
                    put("mac", json!(interface.mac));
                }
                if let (Some(mtu), true) = (interface.mtu, version >= Version::V1_1_0) {
                    put("mtu", json!(mtu));
                }
                if !interface.sandbox.is_empty() {
                    put("sandbox", json!(interface.sandbox));
                }
                Value::Object(object)
            })
            .collect();
        let ips: Vec<Value> = self
            .ips
            .iter()
            .map(|ip| {
                let mut object = Map::from_iter([("address".to_owned(), json!(ip.address))]);
                if version < Version::V1_0_0 {
                    let family = if ip.address.addr().is_ipv4() { "4" } else { "6" };
                    object.insert("version".to_owned(), json!(family));
                }
                if let Some(gateway) = ip.gateway {
                    object.insert("gateway".to_owned(), json!(gateway));
                }
                if let Some(place) = ip.interface {
                    object.insert("interface".to_owned(), json!(place));
                }
                Value::Object(object)
            })
            .collect();
        let routes: Vec<Value> = self.routes.iter().map(route_json).collect();
        json!({ "cniVersion": version, "interfaces": interfaces, "ips": ips, "routes": routes, "dns": self.dns })
    }

    /// 0.1.0 and 0.2.0: one address per family, routes inside it, no interfaces.
    fn to_json_02(&self, version: Version) -> Value {
        let mut object =
            Map::from_iter([("cniVersion".to_owned(), json!(version)), ("dns".to_owned(), json!(self.dns))]);
        for (key, ipv4) in [("ip4", true), ("ip6", false)] {
            let Some(ip) = self.ips.iter().find(|ip| ip.address.addr().is_ipv4() == ipv4) else { continue };
            let routes: Vec<Value> = self
                .routes
                .iter()
                .filter(|route| route.destination.addr().is_ipv4() == ipv4)
                .map(route_json)
                .collect();
            let mut family =
                Map::from_iter([("ip".to_owned(), json!(ip.address)), ("routes".to_owned(), json!(routes))]);
            if let Some(gateway) = ip.gateway {
                family.insert("gateway".to_owned(), json!(gateway));
            }
            object.insert(key.to_owned(), Value::Object(family));
        }
        Value::Object(object)
    }

    /// Reads a `prevResult` of any version, tolerating what other plugins added.
    ///
    /// # Errors
    /// Code 7, naming the field, for an address or index that can't be read.
    pub fn from_json(value: &Value) -> Result<Self, CniError> {
        let bad = |field: &str, value: &Value| {
            CniError::new(code::INVALID_CONFIG, format!("prevResult.{field} cannot be read: {value}"))
        };
        let list = |key: &str| value.get(key).and_then(Value::as_array).into_iter().flatten();
        let text =
            |value: &Value, key: &str| value.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        let gateway =
            |value: &Value| value.get("gateway").and_then(Value::as_str).and_then(|ip| ip.parse().ok());
        let net = |value: &Value, key: &str| value.get(key).and_then(Value::as_str)?.parse::<IpNet>().ok();
        let mut result = Self {
            interfaces: list("interfaces")
                .map(|interface| Interface {
                    name: text(interface, "name"),
                    mac: text(interface, "mac"),
                    mtu: interface.get("mtu").and_then(Value::as_u64).and_then(|mtu| mtu.try_into().ok()),
                    sandbox: text(interface, "sandbox"),
                })
                .collect(),
            dns: value
                .get("dns")
                .and_then(|dns| serde_json::from_value(dns.clone()).ok())
                .unwrap_or_default(),
            ..Self::default()
        };
        for ip in list("ips") {
            let interface = match ip.get("interface") {
                None | Some(Value::Null) => None,
                Some(place) => Some(
                    place
                        .as_u64()
                        .and_then(|place| usize::try_from(place).ok())
                        .filter(|place| *place < result.interfaces.len())
                        .ok_or_else(|| bad("ips[].interface", ip))?,
                ),
            };
            let address = net(ip, "address").ok_or_else(|| bad("ips[].address", ip))?;
            result.ips.push(IpConfig { address, gateway: gateway(ip), interface });
        }
        let mut routes: Vec<&Value> = list("routes").collect();
        for key in ["ip4", "ip6"] {
            let Some(family) = value.get(key).filter(|family| !family.is_null()) else { continue };
            let address = net(family, "ip").ok_or_else(|| bad(key, family))?;
            result.ips.push(IpConfig { address, gateway: gateway(family), interface: None });
            routes.extend(family.get("routes").and_then(Value::as_array).into_iter().flatten());
        }
        for route in routes {
            result.routes.push(RouteConfig {
                destination: net(route, "dst").ok_or_else(|| bad("routes[].dst", route))?,
                gateway: route.get("gw").and_then(Value::as_str).and_then(|ip| ip.parse().ok()),
            });
        }
        Ok(result)
    }
}

fn route_json(route: &RouteConfig) -> Value {
    match route.gateway {
        Some(gateway) => json!({ "dst": route.destination, "gw": gateway }),
        None => json!({ "dst": route.destination }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> CniResult {
        CniResult {
            interfaces: vec![
                Interface {
                    name: "mgy1".to_owned(),
                    mac: "ee:ee:ee:ee:ee:ee".to_owned(),
                    ..Interface::default()
                },
                Interface {
                    name: "eth0".to_owned(),
                    mac: "02:00:00:00:00:01".to_owned(),
                    mtu: None,
                    sandbox: "/run/netns/x".to_owned(),
                },
            ],
            ips: vec![
                IpConfig {
                    address: "10.0.0.7/32".parse().unwrap(),
                    gateway: "169.254.1.1".parse().ok(),
                    interface: Some(1),
                },
                IpConfig { address: "fd00::7/128".parse().unwrap(), gateway: None, interface: Some(1) },
            ],
            routes: vec![
                RouteConfig {
                    destination: "0.0.0.0/0".parse().unwrap(),
                    gateway: "169.254.1.1".parse().ok(),
                },
                RouteConfig { destination: "::/0".parse().unwrap(), gateway: "fe80::1".parse().ok() },
            ],
            dns: Dns::default(),
        }
    }

    #[test]
    fn modern_versions_come_back_whole() {
        for version in Version::ALL.into_iter().filter(|version| *version >= Version::V0_3_0) {
            let json = sample().to_json(version);
            assert_eq!(json["cniVersion"], version.as_str());
            assert_eq!(json["ips"][0].get("version").is_some(), version < Version::V1_0_0, "{json}");
            assert_eq!(CniResult::from_json(&json).unwrap(), sample());
        }
    }

    #[test]
    fn mtu_appears_only_from_1_1() {
        let mut sample = sample();
        sample.interfaces[1].mtu = Some(1450);
        assert_eq!(sample.to_json(Version::V1_1_0)["interfaces"][1]["mtu"], 1450);
        assert!(sample.to_json(Version::V1_0_0)["interfaces"][1].get("mtu").is_none());
    }

    #[test]
    fn oldest_versions_have_one_address_per_family() {
        let json = sample().to_json(Version::V0_2_0);
        assert_eq!(
            json,
            json!({"cniVersion":"0.2.0","dns":{},
                "ip4":{"ip":"10.0.0.7/32","gateway":"169.254.1.1","routes":[{"dst":"0.0.0.0/0","gw":"169.254.1.1"}]},
                "ip6":{"ip":"fd00::7/128","routes":[{"dst":"::/0","gw":"fe80::1"}]}})
        );
        let back = CniResult::from_json(&json).unwrap();
        assert_eq!(back.routes, sample().routes);
        assert_eq!(
            back.ips.iter().map(|ip| ip.address).collect::<Vec<_>>(),
            sample().ips.iter().map(|ip| ip.address).collect::<Vec<_>>()
        );
    }

    #[test]
    fn broken_previous_results_name_the_field() {
        for (value, word) in [
            (json!({"ips":[{"address":"x"}]}), "ips[].address"),
            (json!({"ips":[{"address":"10.0.0.1/32","interface":3}]}), "ips[].interface"),
            (json!({"routes":[{"gw":"10.0.0.1"}]}), "routes[].dst"),
            (json!({"ip4":{"ip":5}}), "ip4"),
        ] {
            let error = CniResult::from_json(&value).unwrap_err();
            assert!(error.code == 7 && error.message.contains(word), "{error}");
        }
    }
}
