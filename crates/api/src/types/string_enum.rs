/// Defines an enumeration spelled as fixed strings in YAML: serde, `FromStr`, `Display`, `ALL`, `as_str`.
///
/// `exact` compares case-sensitively; `any_case` folds ASCII case when reading (Calico's `(?i)` patterns)
/// and always writes the canonical spelling.
macro_rules! string_enum {
    (exact $(#[$meta:meta])* pub enum $name:ident { $( $(#[$vmeta:meta])* $variant:ident = $text:literal ),+ $(,)? }) => {
        $crate::types::string_enum::string_enum!(@build eq $(#[$meta])* $name { $( $(#[$vmeta])* $variant = $text ),+ });
    };
    (any_case $(#[$meta:meta])* pub enum $name:ident { $( $(#[$vmeta:meta])* $variant:ident = $text:literal ),+ $(,)? }) => {
        $crate::types::string_enum::string_enum!(@build eq_ignore_ascii_case $(#[$meta])* $name { $( $(#[$vmeta])* $variant = $text ),+ });
    };
    (@build $same:ident $(#[$meta:meta])* $name:ident { $( $(#[$vmeta:meta])* $variant:ident = $text:literal ),+ }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name { $( $(#[$vmeta])* $variant ),+ }

        impl $name {
            /// Every value, in declaration order.
            pub const ALL: &'static [Self] = &[ $( Self::$variant ),+ ];
            const TEXTS: &'static [&'static str] = &[ $( $text ),+ ];

            /// The spelling in YAML.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $( Self::$variant => $text ),+ }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl std::str::FromStr for $name {
            type Err = $crate::error::ValueError;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                $( if text.$same($text) { return Ok(Self::$variant); } )+
                Err($crate::error::ValueError::not_one_of(text, Self::TEXTS))
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.as_str())
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Text;
                impl serde::de::Visitor<'_> for Text {
                    type Value = $name;
                    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                        write!(f, "one of {}", $name::TEXTS.join(", "))
                    }
                    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<$name, E> {
                        text.parse().map_err(|_: $crate::error::ValueError| E::unknown_variant(text, $name::TEXTS))
                    }
                }
                deserializer.deserialize_str(Text)
            }
        }
    };
}
pub(crate) use string_enum;
