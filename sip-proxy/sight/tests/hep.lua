-- A dissector of HEP3 for tests/tshark.rs. Wireshark has none of its own; its SIP dissector reads the message.
-- Fields are named as in Homer's plugin for Wireshark, so that the test can run with either.
local hep = Proto("hep3", "HEP3")
local fields = {
    [1] = ProtoField.string("hep3.ip_family"),
    [2] = ProtoField.string("hep3.transport_layer_protocol"),
    [3] = ProtoField.ipv4("hep3.source_ipv4_address"),
    [4] = ProtoField.ipv4("hep3.destination_ipv4_address"),
    [5] = ProtoField.ipv6("hep3.source_ipv6_address"),
    [6] = ProtoField.ipv6("hep3.destination_ipv6_address"),
    [7] = ProtoField.uint16("hep3.source_port"),
    [8] = ProtoField.uint16("hep3.destination_port"),
    [9] = ProtoField.uint32("hep3.timestamp_unix"),
    [10] = ProtoField.uint32("hep3.timestamp_microsec"),
    [12] = ProtoField.uint32("hep3.capture_node_id"),
    [14] = ProtoField.string("hep3.auth_key"),
    [17] = ProtoField.string("hep3.correlation_id"),
}
local all = {}
for _, field in pairs(fields) do
    table.insert(all, field)
end
hep.fields = all

function hep.dissector(buffer, info, tree)
    if buffer(0, 4):string() ~= "HEP3" or buffer(4, 2):uint() ~= buffer:len() then return 0 end
    local at, payload, sip = 6, nil, false
    while at < buffer:len() do
        local kind, length = buffer(at + 2, 2):uint(), buffer(at + 4, 2):uint()
        local value = buffer(at + 6, length - 6)
        if kind == 11 then sip = value:uint() == 1 end
        if kind == 15 then payload = value:tvb() end
        if kind == 1 or kind == 2 then
            tree:add(fields[kind], value, tostring(value:uint()))
        elseif fields[kind] then
            tree:add(fields[kind], value)
        end
        at = at + length
    end
    if sip and payload then Dissector.get("sip"):call(payload, info, tree) end
    return at
end

DissectorTable.get("udp.port"):add(9060, hep)
