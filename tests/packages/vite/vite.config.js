import { defineConfig } from "vite";

// REACT=18 builds the same app with the older React.
const older = process.env.REACT === "18";
const alias = older ? { "react-dom": "react-dom-18", react: "react-18" } : {};

export default defineConfig({
  resolve: { alias, dedupe: ["react", "react-dom"] },
  build: {
    outDir: older ? "dist18" : "dist",
    minify: false,
    rollupOptions: { input: { react: "react.html", vue: "vue.html", query: "query.html" } },
  },
});
