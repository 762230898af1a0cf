//! Connection ids that name server, worker and slot.

use super::input::Input;
use quiclane::lb::{
    CID_LEN, Codec, Config, MAX_GENERATIONS, MAX_PROCESSES, MAX_SLOTS, MAX_WORKERS, Route,
};

/// A configuration, a route, and an arbitrary id.
pub(super) fn connection_id(data: &[u8]) {
    let mut input = Input::new(data);
    let choice = input.u8();
    let config = Config {
        config_id: choice % 7,
        server_id: input.u32(),
        key: (choice >= 128).then(|| input.u128().to_be_bytes()),
        secret: input.u128().to_be_bytes(),
    };
    let Ok(codec) = Codec::new(&config) else { panic!("{config:?} is legal") };
    let route = Route {
        worker: input.u16() % MAX_WORKERS as u16,
        slot: input.u32() % MAX_SLOTS as u32,
        process: input.u8() % MAX_PROCESSES as u8,
        generation: input.u32() % MAX_GENERATIONS,
    };
    let random = input.u64();
    let id = codec.encode(route, random);
    assert_eq!(id.len(), CID_LEN);
    assert_eq!(codec.decode(id.as_slice()), Some(route));
    assert_ne!(codec.encode(route, random ^ 1), id);

    let foreign = input.rest();
    if let Some(route) = codec.decode(foreign) {
        assert_eq!(foreign.len(), CID_LEN);
        assert_eq!(foreign[0], id.as_slice()[0]);
        assert!(usize::from(route.worker) < MAX_WORKERS && (route.slot as usize) < MAX_SLOTS);
    }
}
