"""A gRPC server of the lab: Google's stack with its health service.

Arguments: where it listens, the file of its states, and for TLS the files of
its key and its certificate. Without that file it has no health service, as a
server whose developers forgot it. The states are read for each call, so whoever
writes the file decides what the next one is answered:
{"": "SERVING", "shop": "NOT_SERVING"}. A service that does not stand there is
unknown, for which health.proto wants the status NOT_FOUND.
"""

import concurrent.futures
import json
import os
import sys

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

STATES = ["UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN"]


def messages():
    """The classes of health.proto's two messages."""
    kinds = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(
        name="health.proto", package="grpc.health.v1", syntax="proto3"
    )
    request = file.message_type.add(name="HealthCheckRequest")
    request.field.add(
        name="service", number=1, type=kinds.TYPE_STRING, label=kinds.LABEL_OPTIONAL
    )
    response = file.message_type.add(name="HealthCheckResponse")
    status = response.enum_type.add(name="ServingStatus")
    for number, name in enumerate(STATES):
        status.value.add(name=name, number=number)
    response.field.add(
        name="status",
        number=1,
        type=kinds.TYPE_ENUM,
        label=kinds.LABEL_OPTIONAL,
        type_name=".grpc.health.v1.HealthCheckResponse.ServingStatus",
    )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    # The newer name, and that of protobuf before 4.22.
    new = getattr(message_factory, "GetMessageClass", None)
    make = new or message_factory.MessageFactory(pool).GetPrototype
    found = pool.FindMessageTypeByName
    return (
        make(found("grpc.health.v1.HealthCheckRequest")),
        make(found("grpc.health.v1.HealthCheckResponse")),
    )


def main(address, states, tls):
    request, response = messages()

    def check(question, context):
        with open(states, encoding="utf-8") as file:
            known = json.load(file)
        state = known.get(question.service)
        if state is None:
            context.abort(grpc.StatusCode.NOT_FOUND, "unknown service")
        return response(status=STATES.index(state))

    handler = grpc.unary_unary_rpc_method_handler(
        check,
        request_deserializer=request.FromString,
        response_serializer=response.SerializeToString,
    )
    service = grpc.method_handlers_generic_handler(
        "grpc.health.v1.Health", {"Check": handler}
    )
    server = grpc.server(concurrent.futures.ThreadPoolExecutor(max_workers=4))
    if os.path.exists(states):
        server.add_generic_rpc_handlers((service,))
    if tls:
        pair = tuple(open(file, "rb").read() for file in tls)
        bound = server.add_secure_port(address, grpc.ssl_server_credentials([pair]))
    else:
        bound = server.add_insecure_port(address)
    if not bound:
        sys.exit(f"cannot listen on {address}")
    server.start()
    server.wait_for_termination()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3:])
