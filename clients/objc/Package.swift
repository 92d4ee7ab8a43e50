// swift-tools-version:5.3
import PackageDescription

let package = Package(
    name: "Rainbow",
    platforms: [.macOS(.v10_15), .iOS(.v13), .tvOS(.v13), .watchOS(.v6)],
    products: [.library(name: "Rainbow", targets: ["Rainbow"])],
    targets: [
        .target(
            name: "Rainbow",
            path: ".",
            exclude: ["gnustep", "tests", "Makefile", "README.md", "flags"],
            sources: ["src"],
            publicHeadersPath: "include",
            cSettings: [
                .headerSearchPath("src"),
                .headerSearchPath("src/session"),
                .headerSearchPath("src/websocket"),
            ]
        )
    ]
)
