use super::*;
use proptest::prelude::*;

fn id(bytes: &[u8]) -> ConnectionId {
    ConnectionId::new(bytes).unwrap()
}

fn encoded(parameters: &TransportParameters) -> Vec<u8> {
    let mut out = Vec::new();
    parameters.encode(&mut out);
    out
}

/// One parameter: id, length, value.
fn parameter(id: u64, value: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    put(&mut out, id, value);
    out
}

/// One parameter that is a number.
fn number(id: u64, value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    put_varint(&mut bytes, value);
    parameter(id, &bytes)
}

fn from_server(bytes: &[u8]) -> Result<TransportParameters, TransportParameterError> {
    TransportParameters::decode(Side::Server, bytes)
}

/// Every field set to something that is not its default.
fn everything() -> TransportParameters {
    TransportParameters {
        original_destination_connection_id: Some(id(&[1; 8])),
        max_idle_timeout_ms: 30_000,
        stateless_reset_token: Some([2; 16]),
        max_udp_payload_size: 1472,
        initial_max_data: 16 << 20,
        initial_max_stream_data_bidi_local: 65_536,
        initial_max_stream_data_bidi_remote: 65_537,
        initial_max_stream_data_uni: 65_538,
        initial_max_streams_bidi: 100,
        initial_max_streams_uni: MAX_STREAM_COUNT,
        ack_delay_exponent: 20,
        max_ack_delay_ms: MAX_ACK_DELAY_LIMIT_MS - 1,
        disable_active_migration: true,
        preferred_address: Some(PreferredAddress {
            v4: Some("192.0.2.1:443".parse().unwrap()),
            v6: Some("[2001:db8::1]:4433".parse().unwrap()),
            cid: id(&[3; 17]),
            reset_token: [4; 16],
        }),
        active_connection_id_limit: 8,
        initial_source_connection_id: Some(ConnectionId::EMPTY),
        retry_source_connection_id: Some(id(&[5; 20])),
        max_datagram_frame_size: 1200,
        grease: None,
    }
}

#[test]
fn everything_comes_back() {
    let parameters = everything();
    assert_eq!(from_server(&encoded(&parameters)), Ok(parameters));
}

#[test]
fn defaults_are_not_sent_and_hold_when_absent() {
    assert_eq!(encoded(&TransportParameters::default()), [0u8; 0]);
    let parameters = from_server(&[]).unwrap();
    assert_eq!(parameters, TransportParameters::default());
    // RFC 9000 §18.2
    assert_eq!(parameters.max_udp_payload_size, 65_527);
    assert_eq!((parameters.ack_delay_exponent, parameters.max_ack_delay_ms), (3, 25));
    assert_eq!(parameters.active_connection_id_limit, 2);
}

#[test]
fn reserved_parameters_are_sent_and_ignored() {
    for random in [0, 1 << 56, 7 << 56 | 0x1234_5678, u64::MAX] {
        let parameters = TransportParameters { grease: Some(random), ..everything() };
        let bytes = encoded(&parameters);
        let plain = encoded(&everything());
        assert_eq!(&bytes[..plain.len()], plain);
        let mut r = Reader::new(&bytes[plain.len()..]);
        assert_eq!(r.varint().unwrap() % 31, 27);
        assert_eq!(r.prefixed().unwrap().len(), (random >> 56) as usize % 8);
        assert!(r.is_empty());
        assert_eq!(from_server(&bytes), Ok(everything()));
    }
}

/// ATTACKS row 12.
#[test]
fn attack_12_truncated_parameters_are_refused() {
    let bytes = encoded(&everything());
    let whole: Vec<usize> = {
        let mut r = Reader::new(&bytes);
        let mut ends = vec![0];
        while !r.is_empty() {
            r.varint().unwrap();
            r.prefixed().unwrap();
            ends.push(r.position());
        }
        ends
    };
    for cut in 0..bytes.len() {
        let result = from_server(&bytes[..cut]);
        if whole.contains(&cut) {
            assert!(result.is_ok());
        } else {
            assert_eq!(result, Err(TransportParameterError::Truncated), "cut at {cut}");
        }
    }
    // A varint cut short within a value of the right announced length.
    assert_eq!(from_server(&[0x04, 1, 0x40]), Err(Malformed(0x04)));
    assert_eq!(from_server(&[0x04, 0]), Err(Malformed(0x04)));
    assert_eq!(from_server(&[0x04, 2, 1, 1]), Err(Malformed(0x04)));
}

/// ATTACKS row 13.
#[test]
fn attack_13_duplicates_are_refused() {
    for parameter in [number(0x04, 9), parameter(0x0c, &[]), parameter(0x20, &[0])] {
        let twice = [&parameter[..], &number(0x05, 1), &parameter].concat();
        assert_eq!(from_server(&twice), Err(Duplicate(u64::from(parameter[0]))));
    }
    let unknown = parameter(0x3f, &[1, 2, 3]);
    assert_eq!(from_server(&unknown), Ok(TransportParameters::default()));
}

/// ATTACKS row 13.
#[test]
fn attack_13_server_only_parameters_from_a_client_are_refused() {
    let all = everything();
    let none = TransportParameters::default;
    let TransportParameters { preferred_address, stateless_reset_token, .. } = all;
    for (id, parameters) in [
        (0x00, TransportParameters { original_destination_connection_id: Some(id(&[])), ..none() }),
        (0x02, TransportParameters { stateless_reset_token, ..none() }),
        (0x0d, TransportParameters { preferred_address, ..none() }),
        (0x10, TransportParameters { retry_source_connection_id: Some(id(&[1])), ..none() }),
    ] {
        let bytes = encoded(&parameters);
        assert_eq!(TransportParameters::decode(Side::Client, &bytes), Err(FromClient(id)));
        assert_eq!(from_server(&bytes), Ok(parameters));
    }
}

/// ATTACKS row 13.
#[test]
fn attack_13_numbers_out_of_range_are_refused() {
    let limits = [
        (0x03, 1200, 1199),
        (0x08, 1 << 60, (1 << 60) + 1),
        (0x09, 1 << 60, (1 << 60) + 1),
        (0x0a, 20, 21),
        (0x0b, (1 << 14) - 1, 1 << 14),
        (0x0e, 2, 1),
    ];
    for (id, legal, illegal) in limits {
        assert!(from_server(&number(id, legal)).is_ok());
        assert_eq!(from_server(&number(id, illegal)), Err(OutOfRange(id)));
    }
}

#[test]
fn values_of_the_wrong_length_are_refused() {
    for bytes in [
        parameter(0x00, &[1; 21]),
        parameter(0x02, &[1; 15]),
        parameter(0x02, &[1; 17]),
        parameter(0x0c, &[0]),
        parameter(0x0f, &[1; 21]),
        parameter(0x10, &[1; 21]),
    ] {
        assert_eq!(from_server(&bytes), Err(Malformed(u64::from(bytes[0]))));
    }
}

#[test]
fn a_preferred_address_may_lack_a_family_but_not_an_id() {
    let address = everything().preferred_address.unwrap();
    for (v4, v6) in [(None, address.v6), (address.v4, None), (None, None)] {
        let preferred_address = Some(PreferredAddress { v4, v6, ..address });
        let parameters = TransportParameters { preferred_address, ..everything() };
        assert_eq!(from_server(&encoded(&parameters)), Ok(parameters));
    }
    let mut value = Vec::new();
    PreferredAddress { cid: ConnectionId::EMPTY, ..address }.encode(&mut value);
    assert_eq!(from_server(&parameter(0x0d, &value)), Err(Malformed(0x0d)));
    let mut value = Vec::new();
    address.encode(&mut value);
    value.push(0);
    assert_eq!(from_server(&parameter(0x0d, &value)), Err(Malformed(0x0d)));
}

proptest! {
    #[test]
    fn decoding_is_total_and_encoding_inverts_it(
        parts in prop::collection::vec(
            (0..0x22u64, prop::collection::vec(any::<u8>(), 0..60)), 0..12,
        ),
        cut in 0..200usize,
    ) {
        let mut bytes = Vec::new();
        for (id, value) in &parts {
            put(&mut bytes, *id, value);
        }
        bytes.truncate(cut);
        for side in [Side::Client, Side::Server] {
            if let Ok(parameters) = TransportParameters::decode(side, &bytes) {
                let again = TransportParameters::decode(side, &encoded(&parameters));
                prop_assert_eq!(again, Ok(parameters));
            }
        }
    }

    #[test]
    fn numbers_come_back(numbers in prop::collection::vec(0..1u64 << 60, 5)) {
        let parameters = TransportParameters {
            max_idle_timeout_ms: numbers[0],
            initial_max_data: numbers[1],
            initial_max_stream_data_bidi_remote: numbers[2],
            initial_max_streams_uni: numbers[3],
            max_datagram_frame_size: numbers[4],
            ..TransportParameters::default()
        };
        let again = TransportParameters::decode(Side::Client, &encoded(&parameters));
        prop_assert_eq!(again, Ok(parameters));
    }
}
