//! NOTIFICATION (RFC 4271 section 4.5) with every registered code and subcode.

use std::fmt;

use bytes::{BufMut, Bytes, BytesMut};
use serde::{Serialize, Serializer};

/// Declares a subcode enum with its numbers and names.
macro_rules! subcodes {
    ($(#[$doc:meta])* $name:ident { $($(#[$item_doc:meta])* $item:ident = $number:literal $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $name {
            $($(#[$item_doc])* $item,)*
            /// A number without a meaning here. Never one of the above when built by [`Self::new`].
            Other(u8),
        }

        impl $name {
            /// Every registered subcode.
            pub const ALL: &[Self] = &[$(Self::$item),*];

            /// The subcode of a number from the wire.
            pub fn new(number: u8) -> Self {
                match number { $($number => Self::$item,)* other => Self::Other(other) }
            }

            /// The number on the wire.
            pub fn number(self) -> u8 {
                match self { $(Self::$item => $number,)* Self::Other(other) => other }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self { $(Self::$item => f.write_str($text),)* Self::Other(n) => write!(f, "subcode {n}") }
            }
        }
    };
}

subcodes! {
    /// Subcodes of Message Header Error (RFC 4271 section 6.1).
    HeaderSubcode {
        /// 0.
        Unspecific = 0 "unspecific",
        /// 1.
        ConnectionNotSynchronized = 1 "connection not synchronized",
        /// 2; data: the length field.
        BadMessageLength = 2 "bad message length",
        /// 3; data: the type field.
        BadMessageType = 3 "bad message type",
    }
}
subcodes! {
    /// Subcodes of OPEN Message Error (RFC 4271 section 6.2, RFC 5492, RFC 9234).
    OpenSubcode {
        /// 0.
        Unspecific = 0 "unspecific",
        /// 1; data: the version we support, two octets.
        UnsupportedVersion = 1 "unsupported version number",
        /// 2.
        BadPeerAs = 2 "bad peer AS",
        /// 3.
        BadBgpIdentifier = 3 "bad BGP identifier",
        /// 4.
        UnsupportedOptionalParameter = 4 "unsupported optional parameter",
        /// 5; deprecated by RFC 4271.
        AuthenticationFailure = 5 "authentication failure",
        /// 6.
        UnacceptableHoldTime = 6 "unacceptable hold time",
        /// 7; data: the capabilities that are missing (RFC 5492 section 3).
        UnsupportedCapability = 7 "unsupported capability",
        /// 11 (RFC 9234).
        RoleMismatch = 11 "role mismatch",
    }
}
subcodes! {
    /// Subcodes of UPDATE Message Error (RFC 4271 section 6.3).
    UpdateSubcode {
        /// 0.
        Unspecific = 0 "unspecific",
        /// 1.
        MalformedAttributeList = 1 "malformed attribute list",
        /// 2; data: the attribute.
        UnrecognizedWellKnownAttribute = 2 "unrecognized well-known attribute",
        /// 3; data: the code that is missing.
        MissingWellKnownAttribute = 3 "missing well-known attribute",
        /// 4; data: the attribute.
        AttributeFlags = 4 "attribute flags error",
        /// 5; data: the attribute.
        AttributeLength = 5 "attribute length error",
        /// 6; data: the attribute.
        InvalidOrigin = 6 "invalid ORIGIN attribute",
        /// 7; deprecated by RFC 4271.
        AsRoutingLoop = 7 "AS routing loop",
        /// 8; data: the attribute.
        InvalidNextHop = 8 "invalid NEXT_HOP attribute",
        /// 9; data: the attribute.
        OptionalAttribute = 9 "optional attribute error",
        /// 10.
        InvalidNetworkField = 10 "invalid network field",
        /// 11.
        MalformedAsPath = 11 "malformed AS_PATH",
    }
}
subcodes! {
    /// Subcodes of Finite State Machine Error (RFC 6608).
    FsmSubcode {
        /// 0.
        Unspecified = 0 "unspecified",
        /// 1; data: the type of the message.
        UnexpectedInOpenSent = 1 "unexpected message in OpenSent",
        /// 2; data: the type of the message.
        UnexpectedInOpenConfirm = 2 "unexpected message in OpenConfirm",
        /// 3; data: the type of the message.
        UnexpectedInEstablished = 3 "unexpected message in Established",
    }
}
subcodes! {
    /// Subcodes of Cease (RFC 4486, RFC 8538, RFC 9384).
    CeaseSubcode {
        /// 0.
        Unspecific = 0 "unspecific",
        /// 1; data: AFI, SAFI and the limit.
        MaximumPrefixes = 1 "maximum number of prefixes reached",
        /// 2; data: shutdown communication (RFC 9003).
        AdministrativeShutdown = 2 "administrative shutdown",
        /// 3.
        PeerDeconfigured = 3 "peer de-configured",
        /// 4; data: shutdown communication (RFC 9003).
        AdministrativeReset = 4 "administrative reset",
        /// 5.
        ConnectionRejected = 5 "connection rejected",
        /// 6.
        OtherConfigurationChange = 6 "other configuration change",
        /// 7.
        ConnectionCollision = 7 "connection collision resolution",
        /// 8.
        OutOfResources = 8 "out of resources",
        /// 9; data: the NOTIFICATION that it stands for (RFC 8538 section 3).
        HardReset = 9 "hard reset",
        /// 10 (RFC 9384).
        BfdDown = 10 "BFD down",
    }
}
subcodes! {
    /// Subcodes of ROUTE-REFRESH Message Error (RFC 7313 section 5).
    RefreshSubcode {
        /// 0.
        Reserved = 0 "reserved",
        /// 1; data: the whole message.
        InvalidMessageLength = 1 "invalid message length",
    }
}

/// Error code and subcode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum NotificationCode {
    /// 1.
    Header(HeaderSubcode),
    /// 2.
    Open(OpenSubcode),
    /// 3.
    Update(UpdateSubcode),
    /// 4.
    HoldTimerExpired,
    /// 5.
    Fsm(FsmSubcode),
    /// 6.
    Cease(CeaseSubcode),
    /// 7.
    RouteRefresh(RefreshSubcode),
    /// 8 (RFC 9687).
    SendHoldTimerExpired,
    /// Any other pair of numbers.
    Other {
        /// Error code.
        code: u8,
        /// Error subcode.
        subcode: u8,
    },
}

impl NotificationCode {
    /// The meaning of a pair of numbers from the wire.
    pub fn new(code: u8, subcode: u8) -> Self {
        match (code, subcode) {
            (1, _) => Self::Header(HeaderSubcode::new(subcode)),
            (2, _) => Self::Open(OpenSubcode::new(subcode)),
            (3, _) => Self::Update(UpdateSubcode::new(subcode)),
            (4, 0) => Self::HoldTimerExpired,
            (5, _) => Self::Fsm(FsmSubcode::new(subcode)),
            (6, _) => Self::Cease(CeaseSubcode::new(subcode)),
            (7, _) => Self::RouteRefresh(RefreshSubcode::new(subcode)),
            (8, 0) => Self::SendHoldTimerExpired,
            _ => Self::Other { code, subcode },
        }
    }

    /// The error code on the wire.
    pub fn code(self) -> u8 {
        match self {
            Self::Header(_) => 1,
            Self::Open(_) => 2,
            Self::Update(_) => 3,
            Self::HoldTimerExpired => 4,
            Self::Fsm(_) => 5,
            Self::Cease(_) => 6,
            Self::RouteRefresh(_) => 7,
            Self::SendHoldTimerExpired => 8,
            Self::Other { code, .. } => code,
        }
    }

    /// The error subcode on the wire.
    pub fn subcode(self) -> u8 {
        match self {
            Self::Header(subcode) => subcode.number(),
            Self::Open(subcode) => subcode.number(),
            Self::Update(subcode) => subcode.number(),
            Self::Fsm(subcode) => subcode.number(),
            Self::Cease(subcode) => subcode.number(),
            Self::RouteRefresh(subcode) => subcode.number(),
            Self::HoldTimerExpired | Self::SendHoldTimerExpired => 0,
            Self::Other { subcode, .. } => subcode,
        }
    }
}

impl fmt::Display for NotificationCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Header(subcode) => write!(f, "message header error: {subcode}"),
            Self::Open(subcode) => write!(f, "OPEN message error: {subcode}"),
            Self::Update(subcode) => write!(f, "UPDATE message error: {subcode}"),
            Self::HoldTimerExpired => f.write_str("hold timer expired"),
            Self::Fsm(subcode) => write!(f, "finite state machine error: {subcode}"),
            Self::Cease(subcode) => write!(f, "cease: {subcode}"),
            Self::RouteRefresh(subcode) => write!(f, "ROUTE-REFRESH message error: {subcode}"),
            Self::SendHoldTimerExpired => f.write_str("send hold timer expired"),
            Self::Other { code, subcode } => write!(f, "error {code} subcode {subcode}"),
        }
    }
}

impl Serialize for NotificationCode {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A NOTIFICATION message.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct Notification {
    /// What happened.
    pub code: NotificationCode,
    /// Details, by code.
    #[serde(serialize_with = "serialize_hex")]
    pub data: Bytes,
}

impl Notification {
    /// A notification without data.
    pub fn new(code: NotificationCode) -> Self {
        Self { code, data: Bytes::new() }
    }

    /// A notification with data.
    pub fn with_data(code: NotificationCode, data: impl Into<Bytes>) -> Self {
        Self { code, data: data.into() }
    }

    /// A Cease without data.
    pub fn cease(subcode: CeaseSubcode) -> Self {
        Self::new(NotificationCode::Cease(subcode))
    }

    /// A Cease with a shutdown communication (RFC 9003). `text` is cut to 255 octets at a character boundary.
    pub fn cease_with_text(subcode: CeaseSubcode, text: &str) -> Self {
        let mut end = text.len().min(usize::from(u8::MAX));
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        let text = &text.as_bytes()[..end];
        let mut data = BytesMut::with_capacity(1 + end);
        data.put_u8(u8::try_from(end).unwrap_or(u8::MAX));
        data.put_slice(text);
        Self { code: NotificationCode::Cease(subcode), data: data.freeze() }
    }

    /// This notification as a Hard Reset, which also ends graceful restart (RFC 8538 section 3).
    #[must_use]
    pub fn into_hard_reset(self) -> Self {
        let mut data = BytesMut::with_capacity(2 + self.data.len());
        data.put_u8(self.code.code());
        data.put_u8(self.code.subcode());
        data.put_slice(&self.data);
        Self { code: NotificationCode::Cease(CeaseSubcode::HardReset), data: data.freeze() }
    }

    /// Whether this is a Hard Reset.
    pub fn is_hard_reset(&self) -> bool {
        self.code == NotificationCode::Cease(CeaseSubcode::HardReset)
    }

    /// The notification inside a Hard Reset; none when this is none or it holds none.
    pub fn hard_reset_cause(&self) -> Option<Self> {
        match (self.is_hard_reset(), self.data.as_ref()) {
            (true, [code, subcode, ..]) => {
                Some(Self { code: NotificationCode::new(*code, *subcode), data: self.data.slice(2..) })
            }
            _ => None,
        }
    }

    /// The shutdown communication of an administrative shutdown or reset (RFC 9003), also inside a Hard Reset. Bytes
    /// that are not UTF-8 and control characters are replaced: it goes to logs and terminals.
    pub fn shutdown_communication(&self) -> Option<String> {
        if let Some(cause) = self.hard_reset_cause() {
            return if cause.is_hard_reset() { None } else { cause.shutdown_communication() };
        }
        let NotificationCode::Cease(CeaseSubcode::AdministrativeShutdown | CeaseSubcode::AdministrativeReset) =
            self.code
        else {
            return None;
        };
        let (&len, text) = self.data.split_first()?;
        let text = text.get(..usize::from(len)).filter(|text| !text.is_empty())?;
        let replace = |c: char| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c };
        Some(String::from_utf8_lossy(text).chars().map(replace).collect())
    }
}

impl fmt::Display for Notification {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.hard_reset_cause() {
            Some(cause) => write!(f, "{} ({})", self.code, cause.code)?,
            None => self.code.fmt(f)?,
        }
        match self.shutdown_communication() {
            Some(text) => write!(f, ", \"{text}\""),
            None => Ok(()),
        }
    }
}

/// Octets as a hexadecimal string.
pub(super) fn serialize_hex<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&Hex(bytes))
}

/// Shows octets in hexadecimal.
pub(super) struct Hex<'a>(pub(super) &'a [u8]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}
